"""`make backup` and `make restore` of the system that runs on this machine."""

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from deploy.local.__main__ import DEMO_FILE
from deploy.local.cast import PORT_FIELDS
from deploy.local.data_directory import write_json
from tests.house.processes import REPOSITORY, System


def run(system: System, *arguments: str, **settings: str) -> tuple[int, str]:
    """What the command says, and its exit code."""
    command = [sys.executable, "-m", "deploy.local.backup", *arguments]
    environment = {**os.environ, "PROSA_DATA_DIR": str(system.directory / "data"), **settings}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def content(told: str) -> str:
    """The hash of what a backup holds."""
    return str(re.findall(r"content ([0-9a-f]{64})", told)[-1])


def converse(system: System) -> None:
    headers = {"Authorization": f"Bearer {system.demo['api_key']}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{system.gateway}/v1/conversations", b'{"title":"IPTU"}', headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


@pytest.mark.long
def test_what_is_backed_up_is_restored(system: System, tmp_path: Path) -> None:
    converse(system)
    file, again = str(tmp_path / "one.jsonl.gz"), str(tmp_path / "two.jsonl.gz")
    code, told = run(system, "backup", file)
    assert code == 0, told
    code, refused = run(system, "restore", file)
    assert (code, "--into-existing" in refused) == (1, True), refused
    elsewhere = {"CHAT_STORE_MONGODB_DATABASE": f"restored_{os.getpid()}"}
    code, restored = run(system, "restore", file, **elsewhere)
    assert code == 0, restored
    code, told_again = run(system, "backup", again, **elsewhere)
    assert code == 0, told_again
    assert content(told) == content(restored) == content(told_again)
    assert run(system, "restore", file, "--into-existing", **elsewhere)[0] == 0


def test_a_backup_has_a_name_of_its_own_unless_it_is_given_one(system: System) -> None:
    code, told = run(system, "backup")
    assert code == 0, told
    (file,) = (system.directory / "data" / "backups").iterdir()
    assert re.fullmatch(r"chat_store-\d{8}T\d{6}Z\.jsonl\.gz", file.name)


def test_nothing_is_backed_up_where_nothing_runs(tmp_path: Path) -> None:
    code, told = run(System(tmp_path), "backup")
    assert (code, "make run" in told) == (1, True)


def test_what_a_killed_run_left_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    ports = dict.fromkeys((name.removesuffix("_port") for name in PORT_FIELDS), 1)
    write_json(directory / DEMO_FILE, {"ports": ports})
    code, told = run(System(tmp_path), "backup")
    assert (code, told) == (1, f"nothing runs on {directory}: start it with `make run`\n")
