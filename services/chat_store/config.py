"""What chat_store can be told from outside."""

from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator

from shared.config import MIB, ServiceConfig, service_settings


class Config(ServiceConfig):
    """Settings of chat_store."""

    model_config = service_settings("CHAT_STORE_")

    port: int = Field(default=50052, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    max_message_bytes: int = Field(default=24 * MIB, gt=0)
    """Largest gRPC message accepted: an append of the longest text with everything beside it."""

    engine: Literal["mongo", "postgres", "memory"] = "mongo"
    """Which engine keeps the conversations; memory forgets them with the process and is for trying things out."""

    mongodb_url: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("CHAT_STORE_MONGODB_URL", "MONGODB_URL")
    )
    """For the engine mongo: MongoDB, a replica set, for the feed and durable writes need one."""

    database_url: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("CHAT_STORE_DATABASE_URL", "DATABASE_URL")
    )
    """For the engine postgres: PostgreSQL, as postgresql://user:password@host:port/database."""

    database_connections: int = Field(default=16, ge=2, le=200)
    """Most connections to PostgreSQL."""

    database_timeout_ms: int = Field(default=10_000, gt=0)
    """Milliseconds that one statement in PostgreSQL may take."""

    mongodb_database: str = Field(
        default="prosa_chat_store",
        min_length=1,
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_DATABASE", "MONGODB_DATABASE"),
    )
    """Database that this service alone uses."""

    mongodb_driver: Literal["motor", "pymongo"] = Field(
        default="pymongo",
        validation_alias=AliasChoices("CHAT_STORE_MONGODB_DRIVER", "MONGODB_DRIVER"),
    )
    """Client library: PyMongo's own, or Motor, which hands every call to a thread and is kept up no more."""

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

    redis_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("CHAT_STORE_REDIS_URL", "REDIS_URL")
    )
    """Redis for the ends of active conversations that another replica wrote, or this one before it was started."""

    cache: Literal["auto", "on", "off"] = "auto"
    """Where the ends of conversations are cached; on: in the process and in Redis; auto: not in Redis before postgres,
    which answers as fast; off: nowhere. The engine memory needs no cache."""

    cache_process_bytes: int = Field(default=64 * MIB, ge=0)
    """Most bytes, by estimate, of what is cached in the process."""

    cache_ttl_seconds: float = Field(default=3600.0, gt=0)
    """How long the end of a conversation stays in Redis after it was written there; in the process 300 s at most."""

    cache_timeout_ms: int = Field(default=50, gt=0)
    """Milliseconds that Redis has for an answer; after that the engine is asked, and Redis no more until it is back."""

    feed_idle_seconds: float = Field(default=10.0, gt=0)
    """How often an idle feed gives its consumer a fresh resume token."""

    cleanup_interval_seconds: float = Field(default=3600.0, gt=0)
    """How often what is expired, deleted for good or over the tenants' limits is removed."""

    @property
    def cached(self) -> bool:
        """Whether the engine has a cache before it."""
        return self.cache != "off" and self.engine != "memory"

    @property
    def cache_url(self) -> SecretStr | None:
        """The Redis that is the second level of the cache."""
        return self.redis_url if self.cache == "on" or self.engine == "mongo" else None

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        """The engine that is chosen needs its address, the others need none."""
        needed = {"mongo": ("mongodb_url", "MONGODB_URL"), "postgres": ("database_url", "DATABASE_URL")}
        field, variable = needed.get(self.engine, ("", ""))
        if field and not getattr(self, field).get_secret_value():
            raise ValueError(f"the engine {self.engine} needs {variable} (or CHAT_STORE_{variable})")
        return self
