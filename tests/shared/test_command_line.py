"""`python -m services.<name>`: what it runs, how its logs look from the first line, and how a bad start ends."""

import json
import logging
from pathlib import Path

import pytest

from shared.command_line import Errand, command
from shared.config import CannotStartError, ServiceConfig, service_settings
from shared.errors import Unavailable
from shared.logs import get_logger

pytestmark = pytest.mark.usefixtures("logs")


class Config(ServiceConfig):
    model_config = service_settings("CHAT_STORE_")

    port: int = 50052
    """gRPC port."""


def test_logs_are_as_configured_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    async def serve() -> None:
        get_logger().warning("database_not_reachable_yet", url="postgresql://app:hunter2@db")
        logging.getLogger("asyncio").warning("slow")

    command("services.chat_store", Config, serve=serve, arguments=[])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["service"], first["event"]) == ("chat_store", "database_not_reachable_yet")
    assert "hunter2" not in first["url"]
    assert second["service"] == "chat_store"


@pytest.mark.parametrize("error", [CannotStartError("the port is taken"), Unavailable("the database is unavailable")])
def test_a_start_that_cannot_succeed_ends_with_words(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    async def serve() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command("services.chat_store", Config, serve=serve, arguments=[])
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"services.chat_store: {error}\n"


async def nothing() -> None:
    pass


def test_help_prints_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command("services.chat_store", Config, serve=nothing, arguments=["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "CHAT_STORE_PORT" in shown
    assert "migrate" not in shown.partition("settings")[0]


def test_the_command_chosen_is_run() -> None:
    ran: list[str] = []

    async def serve() -> None:
        ran.append("serve")

    async def migrate() -> None:
        ran.append("migrate")

    command("services.chat_store", Config, serve=serve, migrate=migrate, arguments=[])
    command("services.chat_store", Config, serve=serve, migrate=migrate, arguments=["migrate"])
    assert ran == ["serve", "migrate"]


def test_an_errand_is_told_in_the_help_and_given_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[tuple[str, str]] = []

    async def backup(directory: str, name: str) -> None:
        ran.append((directory, name))

    errands = {"backup": Errand(backup, "writes all into a directory", ("directory", "name"))}
    command("services.chat_store", Config, serve=nothing, errands=errands, arguments=["backup", "there", "monday"])
    assert ran == [("there", "monday")]
    with pytest.raises(SystemExit) as ended:
        command("services.chat_store", Config, serve=nothing, errands=errands, arguments=["--help"])
    assert ended.value.code == 0
    assert "writes all into a directory" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        command("services.chat_store", Config, serve=nothing, errands=errands, arguments=["backup", "there"])
    assert ended.value.code == 2


def test_an_errand_is_told_what_it_may_do_by_flags(capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[tuple[str, bool]] = []

    async def restore(file: str, *, into_existing: bool) -> None:
        ran.append((file, into_existing))

    errands = {"restore": Errand(restore, "takes a file in", ("file",), {"into_existing": "adds to what is there"})}
    for given in (["monday"], ["monday", "--into-existing"]):
        command("services.chat_store", Config, serve=nothing, errands=errands, arguments=["restore", *given])
    assert ran == [("monday", False), ("monday", True)]
    with pytest.raises(SystemExit):
        command("services.chat_store", Config, serve=nothing, errands=errands, arguments=["restore", "--help"])
    assert "adds to what is there" in capsys.readouterr().out


def test_bad_settings_end_the_command_with_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve() -> None:
        Config()

    monkeypatch.setenv("CHAT_STORE_PROT", "1")
    monkeypatch.setenv("CHAT_STORE_PORT", "s3cret")
    with pytest.raises(SystemExit) as ended:
        command("services.chat_store", Config, serve=serve, arguments=["serve"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "CHAT_STORE_PORT" in told or "port" in told
    assert "s3cret" not in told


def test_secrets_that_are_no_directory_are_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    class Mounted(ServiceConfig):
        model_config = {**service_settings("CHAT_STORE_"), "secrets_dir": tmp_path / "file"}  # noqa: RUF012

        port: int = 50052

    with pytest.raises(SystemExit) as ended:
        command("services.chat_store", Mounted, serve=nothing, arguments=[])
    assert ended.value.code == 2
    assert "must reference a directory" in capsys.readouterr().err
