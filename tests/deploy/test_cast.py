"""Who is started, and what each of them is told: no more than it needs."""

from pathlib import Path

import pytest

from deploy.local.cast import GATEWAY, PORT_FIELDS, SERVICES, Cast
from deploy.local.config import LocalConfig
from deploy.local.keyring import Keyring, keyring_in


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return keyring_in(tmp_path)


def cast(tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch, **environment: str) -> Cast:
    for name, value in {"PROSA_DATA_DIR": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    ports = {name.removesuffix("_port"): number for number, name in enumerate(PORT_FIELDS, 20_000)}
    made = Cast(LocalConfig(), ports, keyring)
    if made.config.database_url is None:
        (tmp_path / "postgres").mkdir()
        (tmp_path / "postgres" / "password").write_text("generated")
    return made


def environment_of(cast: Cast, name: str) -> dict[str, str]:
    programs = [*cast.service_programs(), cast.gateway_program()]
    (command,) = [program.command() for program in programs if program.name == name]
    return dict(command.environment)


def test_an_engine_that_is_pointed_elsewhere_is_not_started(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"DATABASE_URL": "postgresql://db.example/prosa", "REDIS_URL": "redis://cache.example"}
    made = cast(tmp_path, keyring, monkeypatch, **elsewhere)
    assert [program.name for program in made.engine_programs()] == ["mongod"]
    assert environment_of(made, "tenant_quota")["DATABASE_URL"] == elsewhere["DATABASE_URL"]
    assert environment_of(made, "analytics")["REDIS_URL"] == elsewhere["REDIS_URL"]
    assert "db.example" not in repr(made.config)


def test_a_service_is_told_only_the_secrets_it_needs(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cast(tmp_path, keyring, monkeypatch)
    holders = {
        keyring.signing_private_pem: {"tenant_quota"},
        keyring.pepper: {"tenant_quota"},
        keyring.admin_key: {"tenant_quota"},
        keyring.service_key: {"tenant_quota", "document_rag", "analytics"},
    }
    for secret, allowed in holders.items():
        assert {name for name in (*SERVICES, GATEWAY) if secret in environment_of(made, name).values()} == allowed
    told = {name for name in (*SERVICES, GATEWAY) if "generated" in str(environment_of(made, name))}
    assert told == {"tenant_quota", "document_rag"}


def test_a_wish_from_the_environment_reaches_its_service_alone(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cast(tmp_path, keyring, monkeypatch, CHAT_STORE_LOG_FORMAT="json", DOCUMENT_RAG_ANSWER_MODEL="extractive")
    assert environment_of(made, "chat_store")["CHAT_STORE_LOG_FORMAT"] == "json"
    assert environment_of(made, "analytics")["ANALYTICS_LOG_FORMAT"] == "console"
    assert environment_of(made, "document_rag")["DOCUMENT_RAG_ANSWER_MODEL"] == "extractive"
    assert not [name for name in environment_of(made, GATEWAY) if name.startswith(("CHAT_STORE_", "DOCUMENT_RAG_"))]


def test_the_ports_of_a_run_are_not_the_environments_to_change(
    tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cast(tmp_path, keyring, monkeypatch, CHAT_STORE_PORT="1")
    assert environment_of(made, "chat_store")["CHAT_STORE_PORT"] == str(made.ports["chat_store"])
    assert made.targets["chat_store"] in environment_of(made, GATEWAY).values()


@pytest.mark.parametrize(
    ("engine", "told", "migrated"),
    [
        ("mongo", {"MONGODB_URL", "REDIS_URL"}, False),
        ("postgres", {"DATABASE_URL", "REDIS_URL"}, True),
        ("memory", {"REDIS_URL"}, False),
    ],
)
def test_chat_store_is_told_only_of_the_engine_that_keeps_its_conversations(
    engine: str, told: set[str], migrated: bool, tmp_path: Path, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cast(tmp_path, keyring, monkeypatch, CHAT_STORE_ENGINE=engine)
    settings = environment_of(made, "chat_store")
    assert {name for name in settings if name in {"MONGODB_URL", "DATABASE_URL", "REDIS_URL"}} == told
    assert settings["CHAT_STORE_ENGINE"] == engine
    assert ("chat_store migrate" in dict(made.migrations())) == migrated
