"""What the all-in-one run can be told from outside, and what it hands on to each service."""

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

SERVICE_PREFIXES = ("TENANT_QUOTA_", "CHAT_STORE_", "DOCUMENT_RAG_", "ANALYTICS_", "GATEWAY_")


class LocalConfig(BaseSettings):
    """Settings of `make run`. A port that is set is insisted on; a default one gives way when it is taken."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="PROSA_", extra="ignore", use_attribute_docstrings=True, populate_by_name=True
    )

    data_dir: Path = Path(".prosa")
    """Where everything is kept: the engines' data, originals of documents, generated secrets, demo.json."""

    gateway_port: int = Field(default=8080, ge=0, le=65535)
    """HTTP; this and the other ports: 0 takes any free one."""

    tenant_quota_port: int = Field(default=50051, ge=0, le=65535)
    """gRPC."""

    chat_store_port: int = Field(default=50052, ge=0, le=65535)
    """gRPC."""

    document_rag_port: int = Field(default=50053, ge=0, le=65535)
    """gRPC."""

    analytics_port: int = Field(default=50054, ge=0, le=65535)
    """gRPC."""

    gateway_metrics_port: int = Field(default=9150, ge=0, le=65535)
    """Prometheus."""

    tenant_quota_metrics_port: int = Field(default=9151, ge=0, le=65535)
    """Prometheus."""

    chat_store_metrics_port: int = Field(default=9152, ge=0, le=65535)
    """Prometheus."""

    document_rag_metrics_port: int = Field(default=9153, ge=0, le=65535)
    """Prometheus."""

    analytics_metrics_port: int = Field(default=9154, ge=0, le=65535)
    """Prometheus."""

    postgres_port: int = Field(default=55432, ge=0, le=65535)
    """The embedded PostgreSQL."""

    mongo_port: int = Field(default=57017, ge=0, le=65535)
    """The embedded MongoDB."""

    redis_port: int = Field(default=56379, ge=0, le=65535)
    """The embedded Redis."""

    demo: bool = True
    """Whether the first start creates the demo tenant."""

    chat_store_engine: Literal["mongo", "postgres", "memory"] = Field(
        default="mongo", validation_alias=AliasChoices("CHAT_STORE_ENGINE")
    )
    """What keeps the conversations."""

    database_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("DATABASE_URL"))
    """A PostgreSQL with pgvector to use; the embedded one is not started."""

    mongodb_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("MONGODB_URL"))
    """A MongoDB replica set to use; the embedded one is not started."""

    redis_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("REDIS_URL"))
    """A Redis to use; the embedded one is not started."""


def environment_for(prefix: str) -> dict[str, str]:
    """The caller's environment without what belongs to other services than the one with this prefix."""
    foreign = tuple(name for name in SERVICE_PREFIXES if name != prefix)
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def wants_colour() -> bool:
    """Whether names in the log are coloured: on a terminal, unless NO_COLOR is set."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
