"""What every service can be told from outside: one frozen class, read once from the environment.

A misspelt variable is an error, not a silent default: unknown keys of a service's prefix are refused by name.
"""

import os
from typing import Any, Literal, Self

from pydantic import AliasChoices, AliasPath, Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class CannotStartError(RuntimeError):
    """The process cannot start as it is configured; the message tells an operator why, without a traceback."""


def service_settings(prefix: str) -> SettingsConfigDict:
    """The `model_config` of a service whose variables start with `prefix`, for example "CHAT_STORE_".

    PROSA_SECRETS_DIR names a directory of files, one per variable, for those who mount secrets instead.
    """
    return SettingsConfigDict(
        frozen=True,
        env_prefix=prefix,
        extra="forbid",
        populate_by_name=True,
        use_attribute_docstrings=True,
        validate_default=True,
        hide_input_in_errors=True,
        secrets_dir=os.environ.get("PROSA_SECRETS_DIR"),
    )


class ServiceConfig(BaseSettings):
    """The settings that every service shares; a service adds its own and its prefix."""

    model_config = service_settings("PROSA_SERVICE_")

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""

    port: int = Field(ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of the Prometheus endpoint; 0 turns it off."""

    shutdown_grace_seconds: float = Field(default=10.0, ge=0)
    """How long calls in flight may go on after SIGTERM."""

    drain_delay_seconds: float = Field(default=0.5, ge=0)
    """How long health says NOT_SERVING before the listener closes, so that balancers look elsewhere."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe level that is logged."""

    log_format: Literal["json", "console"] = "json"
    """json for machines, console for people."""

    token_public_key: str = Field(default="", validation_alias=AliasChoices("PROSA_TOKEN_PUBLIC_KEY"))
    """Ed25519 public key (PEM) that verifies callers' tokens, or the old and the new one while it is changed; "\\n" may
    stand for a line end."""

    otlp_endpoint: str = Field(default="", validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT"))
    """Where traces go (OTLP over gRPC); empty keeps them at home."""

    trace_sample_ratio: float = Field(default=0.05, ge=0, le=1)
    """Share of the traces started here that are recorded; a calling service's decision is followed."""

    max_message_bytes: int = Field(default=4 * MIB, gt=0)
    """Largest gRPC message accepted."""

    reflection: bool = True
    """Whether the server describes its contracts to clients such as grpcurl; false in public deployments."""

    @field_validator("token_public_key")
    @classmethod
    def _with_line_ends(cls, pem: str) -> str:
        return pem.replace("\\n", "\n")

    @model_validator(mode="after")
    def _refuse_unknown_variables(self) -> Self:
        prefix = str(self.model_config.get("env_prefix", ""))
        known = {name for field in environment_names(type(self)).values() for name in field}
        unknown = sorted(
            name for name in os.environ if prefix and name.upper().startswith(prefix) and name.upper() not in known
        )
        if unknown:
            raise ValueError(f"unknown variables: {', '.join(unknown)} (known: {', '.join(sorted(known))})")
        return self


def environment_names(config_class: type[BaseSettings]) -> dict[str, list[str]]:
    """Field name → the variables that set it, in upper case, the first that is set wins."""
    prefix = str(config_class.model_config.get("env_prefix", ""))
    return {name: _names(prefix, name, field) for name, field in config_class.model_fields.items()}


def describe(config_class: type[BaseSettings]) -> str:
    """A table of the settings for `--help`: variable, default, meaning."""
    names = environment_names(config_class)
    rows = [("variable", "default", "meaning")]
    for name, field in config_class.model_fields.items():
        meaning = " ".join((field.description or "").split())
        rows.append((" or ".join(names[name]), _shown(field), meaning))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)


def _names(prefix: str, name: str, field: FieldInfo) -> list[str]:
    match field.validation_alias:
        case None:
            return [(prefix + name).upper()]
        case str(alias):
            return [alias.upper()]
        case AliasChoices(choices=choices):
            return [choice.upper() for choice in choices if isinstance(choice, str)]
        case AliasPath():
            return []


def _shown(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default: Any = field.get_default(call_default_factory=True)
    return repr(default) if default == "" else str(default)
