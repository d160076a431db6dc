"""Settings: read once, refused when they are misspelt, described for people."""

from pathlib import Path

import pytest
from pydantic import AliasChoices, Field, SecretStr, ValidationError

from shared.config import ServiceConfig, describe, service_settings


class Config(ServiceConfig):
    model_config = service_settings("CHAT_STORE_")

    port: int = 50052
    """gRPC port."""

    mongodb_url: SecretStr = Field(
        default=SecretStr("mongodb://localhost"),
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_URL", "MONGODB_URL"),
    )
    """Where conversations are kept."""


def test_the_services_own_name_wins_over_the_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URL", "mongodb://shared")
    assert Config().mongodb_url.get_secret_value() == "mongodb://shared"
    monkeypatch.setenv("CHAT_STORE_MONGODB_URL", "mongodb://own")
    assert Config().mongodb_url.get_secret_value() == "mongodb://own"


def test_values_may_be_given_by_field_name() -> None:
    assert Config(port=7, mongodb_url=SecretStr("mongodb://test")).mongodb_url.get_secret_value() == "mongodb://test"


def test_a_misspelt_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_STORE_PROT", "1")
    with pytest.raises(ValidationError, match="CHAT_STORE_PROT") as caught:
        Config()
    assert "CHAT_STORE_PORT" in str(caught.value)


def test_another_services_variables_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_ANYTHING", "1")
    assert Config().port == 50052


def test_all_bad_values_are_told_at_once_and_none_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_STORE_PORT", "s3cret")
    monkeypatch.setenv("CHAT_STORE_LOG_LEVEL", "LOUD")
    with pytest.raises(ValidationError) as caught:
        Config()
    assert caught.value.error_count() == 2
    assert "s3cret" not in str(caught.value)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().port = 1


def test_secrets_are_masked() -> None:
    assert "hunter2" not in repr(Config(mongodb_url=SecretStr("mongodb://u:hunter2@h")))


def test_a_key_may_be_written_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROSA_TOKEN_PUBLIC_KEY", "-----BEGIN-----\\nabc\\n-----END-----")
    assert Config().token_public_key == "-----BEGIN-----\nabc\n-----END-----"


def test_secrets_may_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "CHAT_STORE_PORT").write_text("50099")
    monkeypatch.setenv("PROSA_SECRETS_DIR", str(tmp_path))

    class FromFiles(ServiceConfig):
        model_config = service_settings("CHAT_STORE_")

        port: int = 0

    assert FromFiles().port == 50099


def test_the_table_names_variable_default_and_meaning() -> None:
    table = describe(Config)
    assert "CHAT_STORE_MONGODB_URL or MONGODB_URL" in table
    assert "Where conversations are kept." in table
    row = next(line for line in table.splitlines() if line.startswith("CHAT_STORE_PORT "))
    assert row.split()[1:] == ["50052", "gRPC", "port."]
    assert describe(ServiceConfig).count("required") == 1
