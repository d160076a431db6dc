"""prosa-ingest and prosa-ask, as a person runs them, against the whole system."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.house.processes import REPOSITORY
from tests.journeys.tenant import Tenant
from tests.journeys.terminal import Terminal, records

IPTU = "# Guia do IPTU\n\nA cota única do IPTU vence em 10 de março e tem desconto de 12%.\n"
LIXO = "# Coleta de lixo\n\nA coleta seletiva passa às terças e quintas-feiras no bairro Centro, às 7 horas.\n"
QUESTION = "Quando vence a cota única do IPTU?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two readable documents, one below the other."""
    root = tmp_path / "docs"
    (root / "servicos").mkdir(parents=True)
    (root / "iptu.md").write_text(IPTU, encoding="utf-8")
    (root / "servicos" / "lixo.md").write_text(LIXO, encoding="utf-8")
    return root


def test_a_folder_is_taken_in_and_a_rerun_sends_nothing_again(tenant: Tenant, terminal: Terminal, folder: Path) -> None:
    collection = tenant.admin.post("/v1/collections", {"collection": {"displayName": "Editais"}})["collectionId"]
    said = ("--metadata", "ano=2026", "--document-language", "pt", "--collection", collection)
    first = terminal.run("ingest", str(folder), "--json", *said)
    assert first.returncode == 0, first.stderr
    files, totals = records(first)
    assert set(files) == {"docs/iptu.md", "docs/servicos/lixo.md"}
    assert totals == {"files": 2, "states": {"READY": 2}, "verdicts": {"NEW": 2}}
    document = tenant.admin.get(f"/v1/documents/{files['docs/iptu.md']['documentId']}")
    assert (document["source"], document["metadata"], document["language"]) == ("docs/iptu.md", {"ano": 2026}, "pt")
    assert document["collectionId"] == collection

    again, totals = records(terminal.run("ingest", str(folder), "--json"))
    assert totals["verdicts"] == {"DUPLICATE_OF": 2}
    assert again["docs/iptu.md"]["documentId"] == files["docs/iptu.md"]["documentId"]
    assert len(tenant.admin.get("/v1/documents")["documents"]) == 2


def test_a_changed_file_becomes_the_new_version_of_its_source(tenant: Tenant, terminal: Terminal, folder: Path) -> None:
    before, _ = records(terminal.run("ingest", str(folder), "--json"))
    (folder / "iptu.md").write_text(IPTU.replace("10 de março", "20 de abril"), encoding="utf-8")
    after, totals = records(terminal.run("ingest", str(folder), "--json"))
    assert totals["verdicts"] == {"NEW_VERSION_OF": 1, "DUPLICATE_OF": 1}
    assert after["docs/iptu.md"]["relatedDocumentId"] == before["docs/iptu.md"]["documentId"]
    assert "20 de abril" in terminal.run("ask", QUESTION).stdout


def test_files_that_fail_are_told_and_do_not_stop_the_others(terminal: Terminal, folder: Path) -> None:
    (folder / "foto.pdf").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0")
    told = terminal.run("ingest", str(folder), "--lang", "pt")
    assert told.returncode == 1
    assert "docs/foto.pdf: falhou: isto é uma imagem PNG" in told.stdout
    assert "pesquisável" in told.stdout
    assert "DOCUMENT_UNREADABLE" in told.stdout


def test_a_run_that_is_interrupted_goes_on_where_it_stopped(tenant: Tenant, terminal: Terminal, folder: Path) -> None:
    for number in range(12):
        (folder / f"aviso-{number}.md").write_text(f"# Aviso {number}\n\nO aviso de número {number}.", encoding="utf-8")
    line = Terminal.line("ingest", str(folder), "--json", "--jobs", "1")
    with subprocess.Popen(
        line, cwd=REPOSITORY, env=terminal.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as cut:
        assert cut.stdout is not None
        done = [json.loads(cut.stdout.readline()) for _ in range(3)]
        cut.send_signal(signal.SIGINT)
        _, complaint = cut.communicate(timeout=60)
    assert cut.returncode == 130
    assert "run the same command again" in complaint
    files, totals = records(terminal.run("ingest", str(folder), "--json"))
    assert totals["files"] == 14
    assert totals["verdicts"]["DUPLICATE_OF"] >= len(done)
    assert {files[each["source"]]["documentId"] for each in done} == {each["documentId"] for each in done}
    assert len(tenant.admin.get("/v1/documents", pageSize=100)["documents"]) == 14


@pytest.mark.parametrize(
    ("arguments", "key", "code", "says"),
    [
        (["/nowhere"], None, 2, "no such file"),
        ([".", "--include", "*.none"], None, 2, "no file matches"),
        (["docs"], "", 2, "an API key is needed"),
        (["docs"], "pk_wrong", 3, "CREDENTIALS_INVALID"),
    ],
    ids=["missing place", "nothing matches", "no key", "refused key"],
)
def test_the_exit_code_says_what_went_wrong(
    terminal: Terminal, folder: Path, arguments: list[str], key: str | None, code: int, says: str
) -> None:
    if key is not None:
        terminal = terminal.but(PROSA_API_KEY=key)
    arguments = [str(folder) if each == "docs" else each for each in arguments]
    told = terminal.run("ingest", *arguments)
    assert (told.returncode, says in " ".join(told.stderr.split())) == (code, True), told.stderr


def test_an_answer_is_shown_with_its_sources_and_the_conversation_goes_on(
    tenant: Tenant, terminal: Terminal, folder: Path
) -> None:
    assert terminal.run("ingest", str(folder)).returncode == 0
    first = terminal.run("ask", QUESTION)
    assert first.returncode == 0, first.stderr
    assert "A cota única do IPTU vence em 10 de março" in first.stdout.splitlines()[0]
    assert "Sources\n[1] Guia do IPTU: “" in first.stdout
    second = terminal.run("ask", "--continue", "--json", given="E qual é o desconto?\n")
    told = json.loads(second.stdout)
    assert first.stdout.rstrip().endswith(told["conversationId"])
    assert [each["number"] for each in told["citations"]]
    assert len(tenant.admin.messages(told["conversationId"])) == 4


def test_a_team_is_asked_and_its_steps_are_told_beside_the_answer(
    tenant: Tenant, terminal: Terminal, folder: Path
) -> None:
    terminal.run("ingest", str(folder))
    team = {"displayName": "Atendimento", "leaderId": tenant.assistant_id, "strategy": "TEAM_STRATEGY_SEQUENCE"}
    made = tenant.admin.post("/v1/teams", {"team": {**team, "memberIds": [tenant.assistant_id]}})
    told = terminal.run("ask", "--team", made["teamId"], QUESTION)
    assert told.returncode == 0, told.stderr
    assert "10 de março" in told.stdout
    assert "Assistente: answers: done" in told.stderr


def test_what_the_documents_do_not_hold_has_an_exit_code_of_its_own(terminal: Terminal, folder: Path) -> None:
    terminal.run("ingest", str(folder))
    assert terminal.run("ask", "Quem ganhou o campeonato de xadrez em Marte?").returncode == 4


def test_a_quota_that_is_used_up_has_an_exit_code_of_its_own(tenant: Tenant, terminal: Terminal) -> None:
    tenant.set_quota(tokensPerDay=1)
    told = terminal.run("ask", QUESTION)
    assert (told.returncode, "QUOTA_EXCEEDED" in told.stderr) == (5, True), told.stderr


def test_nothing_to_continue_and_no_assistant_are_said(tenant: Tenant, terminal: Terminal) -> None:
    assert terminal.run("ask", "--continue", QUESTION).returncode == 2
    tenant.admin.post("/v1/assistants", {"assistant": {"displayName": "Outro", "model": "extractive"}})
    told = terminal.run("ask", "--lang", "pt", QUESTION)
    assert told.returncode == 2
    assert "qual assistente?" in told.stderr
    assert tenant.assistant_id in told.stderr
