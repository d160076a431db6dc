"""The all-in-one run as a newcomer meets it: it greets, answers, survives, starts again on its data, and goes."""

import json
import re
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local.cast import SERVICES
from deploy.local.demo import Seeder
from tests.house.processes import System
from tests.house.waiting import wait_until

ENGINES = ("postgres", "mongod", "redis")


def call(system: System, path: str, method: str = "GET") -> Any:
    headers = {"Authorization": f"Bearer {key(system)}"}
    request = urllib.request.Request(f"{system.gateway}{path}", headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def is_answered(system: System, path: str) -> bool:
    """Whether it is; 503, which clients try again, while the neighbours of who came back have not found it yet."""
    try:
        return bool(call(system, path))
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return False


def key(system: System) -> str:
    return str(system.demo["api_key"])


def ask_as_printed(system: System, whom: str) -> list[tuple[str, dict[str, Any]]]:
    """Runs the printed curl for "assistants" or "teams" in a shell; the events it streams, in order."""
    command = re.findall(rf"^ +curl -N \S+/v1/{whom}/.*?'$", system.output, re.MULTILINE | re.DOTALL)[-1]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=200)
    events = re.findall(r"^event: (\w+)\ndata: (.*)$", done.stdout, re.MULTILINE)
    return [(name, json.loads(data)) for name, data in events]


def test_the_printed_curl_streams_a_cited_answer(system: System) -> None:
    events = ask_as_printed(system, "assistants")
    names = [name for name, _ in events]
    assert names[0] == "accepted"
    assert names[-2:] == ["completed", "end"]
    citations = [event for name, event in events if name == "citation"]
    assert any("IPTU" in json.dumps(citation, ensure_ascii=False) for citation in citations)
    assert "10 de fevereiro de 2027" in said(events)


def test_the_printed_curl_for_the_team_shows_who_works_and_an_answer_from_both(system: System) -> None:
    events = ask_as_printed(system, "teams")
    steps = [event["step"] for name, event in events if name == "step"]
    done = {each["displayName"] for each in steps if each["state"] == "STEP_STATE_FINISHED"}
    assert done == {"Tributos e licenças", "Serviços da cidade", "Assistente da Prefeitura"}
    assert "10 de fevereiro de 2027" in said(events)
    assert "coleta seletiva" in said(events)
    titles = {event["citation"]["title"] for name, event in events if name == "citation"}
    assert {"IPTU e tributos municipais 2027", "Coleta de lixo e limpeza urbana"} <= titles


def said(events: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(event["textDelta"]["text"] for name, event in events if name == "text_delta")


def test_the_docs_and_the_contract_are_where_the_greeting_says(system: System) -> None:
    assert f"{system.gateway}/docs" in system.output
    with urllib.request.urlopen(f"{system.gateway}/docs", timeout=30) as page:
        assert page.status == 200
    assert call(system, "/openapi.json")["openapi"].startswith("3.1")


def seeded(system: System) -> tuple[Any, Any, Any]:
    return call(system, "/v1/documents"), call(system, "/v1/assistants"), call(system, "/v1/teams")


def test_a_second_start_finds_everything_and_adds_nothing(system: System) -> None:
    before = system.demo, seeded(system)
    system.restart()
    after = system.demo, seeded(system)
    for name in ("gateway", "api_key", "end_user_key", "admin_key", "assistant_id", "team_id", "services"):
        assert after[0][name] == before[0][name]
    assert after[1] == before[1]
    documents, assistants, teams = after[1]
    assert (len(documents["documents"]), len(assistants["assistants"]), len(teams["teams"])) == (7, 3, 1)


async def test_seeding_again_after_a_crash_that_lost_the_keys_adds_only_keys(system: System, tmp_path: Path) -> None:
    before = seeded(system)
    seeder = Seeder(system.demo["services"], system.demo["admin_key"], tmp_path)
    first, second = await seeder.seed(), await seeder.seed()
    assert first == second
    assert (first.assistant_id, first.team_id) == (system.demo["assistant_id"], system.demo["team_id"])
    assert first.api_key != system.demo["api_key"]
    assert seeded(system) == before


@pytest.mark.long
async def test_what_a_visitor_deleted_stays_deleted(system: System, tmp_path: Path) -> None:
    call(system, f"/v1/documents/{call(system, '/v1/documents')['documents'][0]['documentId']}", method="DELETE")
    system.restart()
    assert len(call(system, "/v1/documents")["documents"]) == 6

    await Seeder(system.demo["services"], system.demo["admin_key"], tmp_path).seed()
    assert len(call(system, "/v1/documents")["documents"]) == 7


def test_secrets_are_on_no_command_line_and_in_no_readable_file(system: System) -> None:
    data = system.directory / "data"
    kept = json.loads((data / "secrets.json").read_text())
    secrets = [*kept.values(), key(system), (data / "postgres" / "password").read_text()]
    for process in system.family():
        line = " ".join(process.cmdline())
        assert not any(secret in line for secret in secrets), process
    for name in ("secrets.json", "demo.json", "demo_tenant.json"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", [*SERVICES, "gateway", *ENGINES])
def test_what_is_killed_comes_back(system: System, name: str) -> None:
    system.kill_and_wait(name)
    wait_until(lambda: is_answered(system, f"/v1/assistants/{system.demo['assistant_id']}"))


def test_a_stop_leaves_no_process_and_no_demo_file(system: System) -> None:
    family = system.family()
    assert len(family) > len(SERVICES) + len(ENGINES)
    assert system.stop() == 0
    try:
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
        assert not system.demo
    finally:
        system.start()


def test_a_killed_supervisor_takes_all_with_it_and_the_next_start_finds_the_data(system: System) -> None:
    documents = call(system, "/v1/documents")
    system.kill_supervisor()
    system.start()
    assert call(system, "/v1/documents") == documents
