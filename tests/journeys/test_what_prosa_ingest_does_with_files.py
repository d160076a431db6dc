"""prosa-ingest: every option that decides what becomes of a file, and what a second run makes of the first."""

import os
from pathlib import Path

import pytest

from tests.document_rag import samples
from tests.house.processes import System
from tests.journeys.tenant import Json, Tenant, eventually
from tests.journeys.terminal import Terminal, records

IPTU = "# Guia do IPTU\n\nA cota única do IPTU vence em 10 de março e tem desconto de 12%.\n"
LATER = IPTU.replace("10 de março", "20 de abril")
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One readable document."""
    root = tmp_path / "docs"
    root.mkdir()
    (root / "iptu.md").write_text(IPTU, encoding="utf-8")
    return root


def ingested(terminal: Terminal, *arguments: str | Path, code: int = 0) -> dict[str, Json]:
    """What became of the files, by source."""
    told = terminal.run("ingest", "--json", *map(str, arguments))
    assert told.returncode == code, (told.stdout, told.stderr)
    return records(told)[0]


def texts_found(tenant: Tenant) -> set[str]:
    """Which of the two dates the tenant's documents give."""
    asked = {"query": "cota única do IPTU", "topK": 20, "scope": "SCOPE_TENANT"}
    found = tenant.admin.post("/v1/documents:search", asked)
    texts = " ".join(passage["text"] for passage in found.get("passages", []))
    return {date for date in ("10 de março", "20 de abril") if date in texts}


@pytest.mark.parametrize(
    ("policy", "state", "verdict", "code", "found"),
    [
        ("skip", "READY", "NEW_VERSION_OF", 0, {"20 de abril"}),
        ("replace", "READY", "NEW_VERSION_OF", 0, {"20 de abril"}),
        ("keep-both", "READY", "NEW_VERSION_OF", 0, {"10 de março", "20 de abril"}),
        ("ask", "UNDECIDED", "NEW_VERSION_OF", 4, {"10 de março"}),
    ],
)
def test_what_is_done_with_a_changed_file_is_what_was_said(
    tenant: Tenant, terminal: Terminal, folder: Path, policy: str, state: str, verdict: str, code: int, found: set[str]
) -> None:
    first = ingested(terminal, folder)["docs/iptu.md"]
    (folder / "iptu.md").write_text(LATER, encoding="utf-8")
    again = ingested(terminal, folder, "--on-duplicate", policy, code=code)["docs/iptu.md"]
    assert (again["state"], again["verdict"]) == (state, verdict)
    assert again["relatedDocumentId"] == first["documentId"]
    assert texts_found(tenant) == found


@pytest.mark.parametrize(
    ("policy", "state", "verdict", "kept"),
    [
        ("skip", "READY", "DUPLICATE_OF", 1),
        ("replace", "READY", "DUPLICATE_OF", 1),
        ("keep-both", "READY", "DUPLICATE_OF", 2),
        ("ask", "READY", "DUPLICATE_OF", 1),
    ],
)
def test_what_is_done_with_a_copy_is_what_was_said_and_a_rerun_changes_nothing(
    tenant: Tenant, terminal: Terminal, folder: Path, policy: str, state: str, verdict: str, kept: int
) -> None:
    ingested(terminal, folder)
    copy = folder.parent / "copia.md"
    copy.write_text(IPTU, encoding="utf-8")
    for _ in range(2):
        told = ingested(terminal, copy, "--on-duplicate", policy)["copia.md"]
        assert (told["state"], told["verdict"]) == (state, verdict)
        assert len(tenant.admin.get("/v1/documents")["documents"]) == kept


def test_a_file_that_becomes_a_copy_of_another_takes_its_old_text_out_of_search(
    tenant: Tenant, terminal: Terminal, folder: Path
) -> None:
    (folder / "atual.md").write_text(LATER, encoding="utf-8")
    ingested(terminal, folder)
    (folder / "atual.md").write_text(IPTU, encoding="utf-8")
    assert ingested(terminal, folder)["docs/atual.md"]["verdict"] == "NEW_VERSION_OF"
    assert texts_found(tenant) == {"10 de março"}


def test_without_waiting_the_verdict_is_told_and_the_document_goes_on(
    tenant: Tenant, terminal: Terminal, folder: Path
) -> None:
    told = ingested(terminal, folder, "--no-wait", code=4)["docs/iptu.md"]
    assert (told["state"], told["verdict"]) == ("PENDING", "NEW")
    eventually(lambda: tenant.admin.get(f"/v1/documents/{told['documentId']}")["state"] == "DOCUMENT_STATE_READY")
    assert ingested(terminal, folder, "--no-wait")["docs/iptu.md"]["state"] == "READY"


def test_the_global_library_takes_the_platforms_files_and_no_tenants(
    tenant: Tenant, terminal: Terminal, folder: Path
) -> None:
    refused = terminal.run("ingest", "--global", str(folder))
    assert (refused.returncode, "PERMISSION_MISSING" in refused.stderr) == (3, True), refused.stderr
    platform = Terminal.of(tenant.platform, folder)
    (folder / "iptu.md").write_text(IPTU + f"Aviso para {tenant.tenant_id}.\n", encoding="utf-8")
    told = ingested(platform, "--global", folder)["docs/iptu.md"]
    try:
        assert told["verdict"] == "NEW"
        assert tenant.admin.get(f"/v1/documents/{told['documentId']}")["scope"] == "SCOPE_GLOBAL"
        assert ingested(platform, "--global", folder)["docs/iptu.md"]["verdict"] == "DUPLICATE_OF"
    finally:
        tenant.platform.call("DELETE", f"/v1/documents/{told['documentId']}")


def test_a_file_whose_document_was_deleted_is_taken_in_again(tenant: Tenant, terminal: Terminal, folder: Path) -> None:
    first = ingested(terminal, folder)["docs/iptu.md"]
    tenant.admin.call("DELETE", f"/v1/documents/{first['documentId']}")
    again = ingested(terminal, folder)["docs/iptu.md"]
    assert again["documentId"] != first["documentId"]
    assert texts_found(tenant) == {"10 de março"}


def test_a_file_that_failed_is_tried_again_and_says_again_why(tenant: Tenant, terminal: Terminal, folder: Path) -> None:
    (folder / "foto.pdf").write_bytes(PICTURE)
    first = ingested(terminal, folder, code=1)["docs/foto.pdf"]
    again = ingested(terminal, folder, code=1)["docs/foto.pdf"]
    assert again == first
    assert again["reason"] == "DOCUMENT_UNREADABLE"
    assert "a PNG picture" in again["message"]
    attempts = tenant.admin.get(f"/v1/documents/{first['documentId']}:diagnose")["attempts"]
    assert attempts == 2


def test_a_file_that_failed_is_sent_again_when_its_original_is_lost(
    tenant: Tenant, terminal: Terminal, folder: Path, system: System
) -> None:
    (folder / "foto.pdf").write_bytes(PICTURE)
    first = ingested(terminal, folder / "foto.pdf", code=1)["foto.pdf"]
    for original in system.directory.rglob(first["documentId"]):
        original.unlink()
    assert ingested(terminal, folder / "foto.pdf", code=1)["foto.pdf"]["reason"] == "ORIGINAL_MISSING"
    again = ingested(terminal, folder / "foto.pdf", code=1)["foto.pdf"]
    assert (again["reason"], again["documentId"] != first["documentId"]) == ("DOCUMENT_UNREADABLE", True)


def test_words_that_were_there_are_not_sent_again_while_they_are(
    tenant: Tenant, terminal: Terminal, folder: Path
) -> None:
    original = ingested(terminal, folder)["docs/iptu.md"]
    (folder / "iptu.txt").write_text(IPTU.replace("\n\n", "\n\n\n"), encoding="utf-8")
    for _ in range(2):
        told = ingested(terminal, folder)["docs/iptu.txt"]
        assert (told["state"], told["verdict"]) == ("SKIPPED", "DUPLICATE_OF")
        assert told["relatedDocumentId"] == original["documentId"]
    tenant.admin.call("DELETE", f"/v1/documents/{original['documentId']}")
    assert ingested(terminal, folder / "iptu.txt")["iptu.txt"]["state"] == "READY"


def test_two_files_that_would_be_one_document_are_refused(tenant: Tenant, terminal: Terminal, tmp_path: Path) -> None:
    for year in ("2025", "2026"):
        (tmp_path / year).mkdir()
        (tmp_path / year / "edital.md").write_text(f"# Edital\n\nO edital de {year}.\n", encoding="utf-8")
    files = [str(tmp_path / year / "edital.md") for year in ("2025", "2026")]
    told = terminal.run("ingest", *files)
    assert (told.returncode, "edital.md" in told.stderr) == (2, True)
    assert tenant.admin.get("/v1/documents").get("documents", []) == []


def test_a_name_in_an_old_encoding_is_read_as_people_wrote_it(tenant: Tenant, terminal: Terminal, folder: Path) -> None:
    os.rename(os.fsencode(folder / "iptu.md"), os.fsencode(folder) + "/isenção.md".encode("cp1252"))
    told = ingested(terminal, folder)["docs/isenção.md"]
    document = tenant.admin.get(f"/v1/documents/{told['documentId']}")
    assert (document["filename"], document["source"]) == ("isenção.md", "docs/isenção.md")


def test_quiet_says_what_failed_and_nothing_else(terminal: Terminal, folder: Path) -> None:
    good = terminal.run("ingest", "--quiet", str(folder))
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    (folder / "foto.pdf").write_bytes(PICTURE)
    bad = terminal.run("ingest", "--quiet", str(folder))
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "docs/foto.pdf" in bad.stderr


# What people upload by mistake or in bad faith, and what they are told of it in the two languages.
UNREADABLE = {
    "imagem.pdf": (PICTURE, "this is a PNG picture", "isto é uma imagem PNG"),
    "trancado.pdf": (samples.pdf("Edital", locked=True), "locked by a password", "está protegido por senha"),
    "digitalizado.pdf": (samples.pdf(""), "it is probably a scan", "deve ser uma digitalização"),
    "cortado.pdf": (samples.pdf("Edital")[:200], "the PDF is damaged", "o PDF está danificado"),
    "bomba.docx": (samples.bomb_docx(80_000_000), "unpacks to far more", "se expande muito além"),
    "bomba.pdf": (samples.bomb_pdf(300_000_000), "takes", "exige"),
    "nulos.txt": (b"um texto\0 com bytes nulos \0\0", "NUL bytes", "bytes NUL"),
    "vazio.txt": (b"", "the file is empty", "o arquivo está vazio"),
    "planilha.docx": (b"nome;valor\0;12\0", "NUL bytes", "bytes NUL"),
    "longo.txt": (b"palavra " * 5_000_001, "more than 10,000,000 characters", "mais de 10.000.000 caracteres"),
}


def test_what_cannot_be_taken_in_is_told_in_the_language_of_the_reader(terminal: Terminal, tmp_path: Path) -> None:
    root = tmp_path / "envios"
    root.mkdir()
    for name, (content, _, _) in UNREADABLE.items():
        (root / name).write_bytes(content)
    with (root / "enorme.csv").open("wb") as file:
        file.truncate(129 * 1024 * 1024)
    (root / "bom.md").write_text(IPTU, encoding="utf-8")
    english, portuguese = (terminal.run("ingest", "--lang", language, str(root)) for language in ("en", "pt"))
    assert (english.returncode, portuguese.returncode) == (1, 1), english.stderr + portuguese.stderr
    for name, (_, in_english, in_portuguese) in UNREADABLE.items():
        assert in_english in line_of(english.stdout, name)
        assert in_portuguese in line_of(portuguese.stdout, name)
    assert "larger than 134217728 bytes" in line_of(english.stdout, "enorme.csv")
    assert "mais de 134217728 bytes" in line_of(portuguese.stdout, "enorme.csv")
    assert "new" in line_of(english.stdout, "bom.md")


def line_of(shown: str, name: str) -> str:
    """The line that was shown when the file had come to its end."""
    return next(line for line in shown.splitlines() if line.startswith(f"envios/{name}: "))
