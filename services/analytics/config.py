"""Settings of analytics, from ANALYTICS_*; the plans' names of the engines' addresses work too."""

from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from shared.config import ServiceConfig, service_settings


class Config(ServiceConfig):
    """What the service can be told from outside."""

    model_config = service_settings("ANALYTICS_")

    port: int = Field(default=50054, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    mongodb_url: SecretStr = Field(
        default=SecretStr("mongodb://127.0.0.1:27017/?replicaSet=prosa"),
        validation_alias=AliasChoices("ANALYTICS_MONGODB_URL", "MONGODB_URL"),
    )
    """MongoDB of facts and rollups: a replica set, because each batch is one transaction."""

    mongodb_database: str = "prosa_analytics"
    """Database of facts and rollups; no other service reads it."""

    mongodb_driver: Literal["motor", "pymongo"] = Field(
        default="pymongo", validation_alias=AliasChoices("ANALYTICS_MONGODB_DRIVER", "MONGODB_DRIVER")
    )
    """Which client library speaks to MongoDB."""

    mongodb_max_pool_size: int = Field(
        default=20,
        gt=0,
        validation_alias=AliasChoices("ANALYTICS_MONGODB_MAX_POOL_SIZE", "MONGODB_MAX_POOL_SIZE"),
    )
    """Most connections to MongoDB."""

    mongodb_min_pool_size: int = Field(
        default=0,
        ge=0,
        validation_alias=AliasChoices("ANALYTICS_MONGODB_MIN_POOL_SIZE", "MONGODB_MIN_POOL_SIZE"),
    )
    """Connections to MongoDB kept open."""

    mongodb_timeout_ms: int = Field(
        default=10_000, gt=0, validation_alias=AliasChoices("ANALYTICS_MONGODB_TIMEOUT", "MONGODB_TIMEOUT")
    )
    """Longest MongoDB operation, in milliseconds."""

    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias=AliasChoices("ANALYTICS_REDIS_URL", "REDIS_URL"),
    )
    """Redis that carries the streams; what it holds may be lost at any time."""

    stream_prefix: str = "metrics"
    """First part of the streams' names."""

    chat_store_target: str = "127.0.0.1:50052"
    """Where the change feed is."""

    tenant_quota_target: str = "127.0.0.1:50051"
    """Where the service exchanges its key for tokens."""

    service_key: SecretStr = SecretStr("")
    """The service's own API key, with "feed.read"; without one the feed is not followed."""

    feed_batch_size: int = Field(default=500, gt=0)
    """Most events that enter the stream in one round trip."""

    feed_max_in_flight: int = Field(default=10_000, gt=0)
    """Events that may be on their way between the feed and the rollups: bounds Redis' memory."""

    feed_checkpoint_seconds: float = Field(default=0.5, gt=0)
    """How often the feed's position follows what has been committed."""

    feed_lease_seconds: float = Field(default=15.0, gt=1)
    """After how long without a sign another replica takes over the feed."""

    worker_batch_size: int = Field(default=1000, gt=0, le=5000)
    """Most events in one transaction."""

    worker_block_ms: int = Field(default=1000, gt=0, le=2000)
    """How long a worker waits for new entries, in milliseconds."""

    worker_claim_idle_seconds: float = Field(default=60.0, gt=0)
    """After how long an entry that a worker took and did not finish is given to another one."""

    worker_max_deliveries: int = Field(default=5, gt=0)
    """Failed deliveries after which an entry goes to the dead letters."""
