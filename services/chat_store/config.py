"""What chat_store can be told from outside."""

from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from shared.config import ServiceConfig, service_settings


class Config(ServiceConfig):
    """Settings of chat_store."""

    model_config = service_settings("CHAT_STORE_")

    port: int = Field(default=50052, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    engine: Literal["mongo"] = "mongo"
    """Which engine keeps the conversations."""

    mongodb_url: SecretStr = Field(validation_alias=AliasChoices("CHAT_STORE_MONGODB_URL", "MONGODB_URL"))
    """MongoDB, a replica set: the feed and durable writes need one."""

    mongodb_database: str = Field(
        default="prosa_chat_store",
        min_length=1,
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_DATABASE", "MONGODB_DATABASE"),
    )
    """Database that this service alone uses."""

    mongodb_driver: Literal["motor", "pymongo"] = Field(
        default="motor",
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_DRIVER", "MONGODB_DRIVER"),
    )
    """Client library."""

    mongodb_max_pool_size: int = Field(
        default=50,
        gt=0,
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_MAX_POOL_SIZE", "MONGODB_MAX_POOL_SIZE"),
    )
    """Most connections to MongoDB."""

    mongodb_min_pool_size: int = Field(
        default=0,
        ge=0,
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_MIN_POOL_SIZE", "MONGODB_MIN_POOL_SIZE"),
    )
    """Connections kept open when idle."""

    mongodb_timeout_ms: int = Field(
        default=10_000,
        gt=0,
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_TIMEOUT", "MONGODB_TIMEOUT"),
    )
    """Milliseconds that one database operation may take, its retries included."""

    feed_idle_seconds: float = Field(default=10.0, gt=0)
    """How often an idle feed gives its consumer a fresh resume token."""
