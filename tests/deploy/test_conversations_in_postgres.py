"""The whole system with its conversations in PostgreSQL: nobody who uses it can tell."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.processes import System, running_system
from tests.journeys.tenant import PATIENCE_SECONDS, eventually, new_tenant


@pytest.fixture(scope="module")
def on_postgres() -> Iterator[System]:
    directory = Path(tempfile.mkdtemp(prefix="prosa-postgres-"))
    directory.chmod(0o755)
    settings = {"CHAT_STORE_ENGINE": "postgres", "DOCUMENT_RAG_ANSWER_MODEL": "extractive", "PROSA_DEMO": "false"}
    with running_system(directory, settings) as system:
        yield system
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.long
def test_a_turn_is_kept_through_a_restart_and_counted(on_postgres: System) -> None:
    tenant = new_tenant(on_postgres, patience_seconds=PATIENCE_SECONDS)
    told = tenant.admin.ask(tenant.assistant_id, "Qual é o prazo?")
    before = tenant.admin.messages(told.conversation_id)
    assert [message["type"] for message in before] == ["MESSAGE_TYPE_USER", "MESSAGE_TYPE_ASSISTANT"]
    on_postgres.restart()
    assert tenant.admin.messages(told.conversation_id) == before
    # The reports come from the feed.
    eventually(lambda: int(tenant.admin.get("/v1/reports/usage")["total"]["turns"]) == 1, within_seconds=40)
