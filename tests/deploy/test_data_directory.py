"""The data directory: one run at a time, secrets made once, files for their owner alone; and the ports of a run."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local import cast
from deploy.local.cast import PORT_FIELDS, PortTakenError, choose_ports
from deploy.local.config import LocalConfig
from deploy.local.data_directory import DirectoryHeldError, held, read_json, write_json
from deploy.local.keyring import keyring_in
from services.tenant_quota.model import parse_secret
from shared.caller import TokenSigner, TokenVerifier
from tests.house.ports import own_port

ALL_FREE: dict[str, Any] = dict.fromkeys(PORT_FIELDS, 0)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_second_run_on_the_same_directory_is_told_so(tmp_path: Path) -> None:
    with held(tmp_path):
        second = subprocess.run(
            [sys.executable, "-m", "deploy.local"],
            env={"PROSA_DATA_DIR": str(tmp_path), "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
    assert second.returncode == 1
    assert "is in use by process" in second.stdout
    assert "set PROSA_DATA_DIR" in second.stdout


@pytest.mark.parametrize(
    ("kept", "content", "told"),
    [
        (".", None, "File exists"),
        ("lock", None, "Is a directory"),
        ("secrets.json", "{", "secrets.json holds no JSON"),
        ("secrets.json", '{"pepper": "x"}', "secrets.json is not as it was written"),
    ],
)
def test_a_directory_that_cannot_be_used_is_told_in_words(
    tmp_path: Path, kept: str, content: str | None, told: str
) -> None:
    directory = tmp_path / "data"
    if kept == ".":
        directory.touch()
    elif content is None:
        (directory / kept).mkdir(parents=True)
    else:
        directory.mkdir()
        (directory / kept).write_text(content)
    run = subprocess.run(
        [sys.executable, "-m", "deploy.local"],
        env={"PROSA_DATA_DIR": str(directory), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (1, "")
    assert told in run.stdout
    assert str(directory) in run.stdout


def test_a_directory_is_free_again_when_its_holder_is_gone(tmp_path: Path) -> None:
    with pytest.raises(DirectoryHeldError), held(tmp_path), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_secrets_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    first = keyring_in(tmp_path)
    assert keyring_in(tmp_path) == first
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]
    assert parse_secret(first.admin_key)
    assert parse_secret(first.service_key)
    assert first.admin_key != first.service_key
    assert first.pepper not in repr(first)


def test_the_two_halves_of_the_signing_key_belong_together(tmp_path: Path) -> None:
    keyring = keyring_in(tmp_path)
    token, _ = TokenSigner(SecretStr(keyring.signing_private_pem)).sign(
        key_id="k", tenant_id="t", user_id="", scopes=["quota.read"]
    )
    assert TokenVerifier(keyring.signing_public_pem).verify(token).tenant_id == "t"


def test_a_crash_while_writing_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    write_json(path, {"n": 1})
    path.with_name("kept.json.unfinished").write_text("{")
    assert read_json(path) == {"n": 1}
    write_json(path, {"n": 2})
    assert read_json(path) == {"n": 2}


def test_a_default_port_that_is_taken_gives_way_and_says_so(taken: int) -> None:
    config = LocalConfig.model_construct(_fields_set=set(), **{**ALL_FREE, "gateway_port": taken})
    said: list[str] = []
    ports = choose_ports(config, said.append)
    assert ports["gateway"] != taken
    assert said == [f"port {taken} is taken: gateway listens on {ports['gateway']}"]


def test_a_port_that_was_asked_for_is_insisted_on(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSA_GATEWAY_PORT", str(taken))
    with pytest.raises(PortTakenError, match=f"PROSA_GATEWAY_PORT={taken}: the port is taken"):
        choose_ports(LocalConfig(), lambda _: None)


def test_a_port_that_was_asked_for_goes_before_another_s_default() -> None:
    wanted = own_port()
    fields = {**ALL_FREE, "gateway_port": wanted, "redis_port": wanted}
    config = LocalConfig.model_construct(_fields_set={"redis_port"}, **fields)
    said: list[str] = []
    ports = choose_ports(config, said.append)
    assert ports["redis"] == wanted
    assert said == [f"port {wanted} is taken: gateway listens on {ports['gateway']}"]


def test_one_port_cannot_be_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = own_port()
    monkeypatch.setenv("PROSA_GATEWAY_PORT", str(wanted))
    monkeypatch.setenv("PROSA_REDIS_PORT", str(wanted))
    with pytest.raises(PortTakenError, match=f"PROSA_REDIS_PORT={wanted}: the port is taken by PROSA_GATEWAY_PORT"):
        choose_ports(LocalConfig(), lambda _: None)


def test_every_program_gets_a_port_of_its_own() -> None:
    ports = choose_ports(LocalConfig.model_construct(**ALL_FREE), lambda _: None)
    assert len(set(ports.values())) == len(PORT_FIELDS) == len(ports)


def test_a_free_port_that_was_given_out_before_is_not_given_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = iter(sorted([*range(50_000, 50_000 + len(PORT_FIELDS))] * 2))
    monkeypatch.setattr(cast, "free_port", lambda: next(offered))
    ports = choose_ports(LocalConfig.model_construct(**ALL_FREE), lambda _: None)
    assert len(set(ports.values())) == len(PORT_FIELDS)
