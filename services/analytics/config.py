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

    feed_max_in_flight: int = Field(default=50_000, gt=0)
    """Events that may be on their way between the feed and the rollups: bounds Redis' memory."""

    feed_checkpoint_seconds: float = Field(default=0.5, gt=0)
    """How often the feed's position follows what has been committed."""

    feed_lease_seconds: float = Field(default=15.0, gt=1)
    """After how long without a sign another replica takes over the feed."""

    worker_batch_size: int = Field(default=250, gt=0, le=5000)
    """Most entries taken at once; the feed packs up to 100 events into one, outside producers up to 1000."""

    worker_block_ms: int = Field(default=1000, gt=0, le=2000)
    """How long a worker waits for new entries, in milliseconds."""

    worker_claim_idle_seconds: float = Field(default=10.0, gt=0)
    """After how long without a sign of the worker that took it an entry is given to another one."""

    worker_max_deliveries: int = Field(default=5, gt=0)
    """Failed deliveries after which an entry goes to the dead letters."""

    inbox_sweep_seconds: float = Field(default=2.0, gt=0)
    """How often it is looked whether Redis has lost what outside producers sent."""

    session_idle_seconds: float = Field(default=1800.0, gt=0)
    """After how long without a message a session is over: it is counted, and its conversation analysed."""

    session_sweep_seconds: float = Field(default=10.0, gt=0)
    """How often sessions that are over are looked for."""

    cleanup_sweep_seconds: float = Field(default=3600.0, gt=0)
    """How often facts are emptied that are older than their tenant keeps them."""

    agreement_utc_hour: int = Field(default=5, ge=0, le=23)
    """Hour of the day, in UTC, from which on all tenants' records are compared; a missed night is made up for."""

    classification_model: str = ""
    """Language model that is asked where rules and the local model are uncertain; with none, or where a tenant has not
    switched it on, they have the last word."""

    classification_timeout_seconds: float = Field(default=20.0, gt=0)
    """How long the language model may take for one conversation."""

    openai_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("ANALYTICS_OPENAI_API_KEY", "OPENAI_API_KEY")
    )
    """Key of the OpenAI-compatible endpoint."""

    openai_base_url: str = Field(
        default="https://api.openai.com/v1",
        validation_alias=AliasChoices("ANALYTICS_OPENAI_BASE_URL", "OPENAI_BASE_URL"),
    )
    """Address of the OpenAI-compatible endpoint."""
