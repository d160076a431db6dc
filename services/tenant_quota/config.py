"""What tenant_quota can be told from outside."""

from pydantic import AliasChoices, Field, SecretStr, field_validator

from shared.config import ServiceConfig, service_settings

MIN_EDGE_SECRET = 32


class Config(ServiceConfig):
    """Settings of tenant_quota; variables start with TENANT_QUOTA_ unless another name is given."""

    model_config = service_settings("TENANT_QUOTA_")

    port: int = Field(default=50051, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    database_url: SecretStr = Field(validation_alias=AliasChoices("TENANT_QUOTA_DATABASE_URL", "DATABASE_URL"))
    """PostgreSQL, as postgresql://user:password@host:port/database."""

    database_connections: int = Field(default=16, ge=2, le=200)
    """Most connections of one process."""

    redis_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("TENANT_QUOTA_REDIS_URL", "REDIS_URL")
    )
    """Redis in which requests per minute are counted; without one, or while it is away, they are not."""

    redis_timeout_ms: int = Field(default=50, gt=0)
    """Milliseconds that Redis has for an answer; after that requests go uncounted until it is back."""

    edge_secret: SecretStr = SecretStr("")
    """What a proxy sends as "authorization: Bearer …" to ask the RateLimitService; without one nobody may ask it."""

    token_signing_key: SecretStr
    """Ed25519 private key (PEM) that signs access tokens; "\\n" may stand for a line end."""

    token_lifetime_seconds: float = Field(default=4.0, ge=2, le=900)
    """How long an access token is good. Half a second later whoever was revoked is refused everywhere: above 4.0, later
    than the 5 s promised."""

    service_token_lifetime_seconds: float = Field(default=60.0, ge=10, le=900)
    """The same for the key of the internal services: what they have begun outlives a restart of this one."""

    api_key_pepper: SecretStr = Field(min_length=16)
    """Key of the keyed hash under which keys and sessions are kept; changing it voids all but the bootstrap keys."""

    new_tenants_plan: str = Field(default="", max_length=64)
    """Id of the plan that a tenant is on when its CreateTenant names none; without one nothing limits it at first."""

    api_key_environment: str = Field(default="live", pattern="^[a-z0-9]{1,16}$")
    """The word after "pk_" in new keys and after "ps_" in sessions: tells people where they work."""

    session_lifetime_seconds: float = Field(default=43_200.0, ge=300)
    """How long a session lives, however much it is used."""

    session_idle_seconds: float = Field(default=3_600.0, ge=300)
    """A session that was not used for so long (to the minute) ends."""

    last_use_interval_seconds: float = Field(default=15.0, gt=0, le=60)
    """How often the last uses of keys and sessions are written."""

    bootstrap_admin_key: SecretStr = SecretStr("")
    """A platform administrator's key that exists from the start (`python -m services.tenant_quota new-key`)."""

    bootstrap_service_key: SecretStr = SecretStr("")
    """The key with which internal services authenticate; exists from the start."""

    sweep_interval_seconds: float = Field(default=1.0, gt=0)
    """How often leases that ended are looked for."""

    sweep_batch: int = Field(default=500, ge=1, le=10_000)
    """Most reservations given back by one statement."""

    largest_batch: int = Field(default=256, ge=1, le=5_000)
    """Most requests in one coalesced statement."""

    batches_in_flight: int = Field(default=1, ge=1, le=16)
    """Coalesced statements of one kind that may run at once: more are more, smaller ones, which cost more together."""

    reservations_kept_days: int = Field(default=90, ge=35)
    """Days for which a settled reservation is kept: so long its request_id, and a late commit, get the same answer."""

    signals_kept_days: int = Field(default=400, ge=35)
    """Days for which signals are listed, and told to whoever comes back."""

    signal_scan_seconds: float = Field(default=60.0, gt=0)
    """How often everybody's usage is held against its limits, for what was missed beside the settlements."""

    audit_utc_hour: int = Field(default=6, ge=0, le=23)
    """Hour of the day, in UTC, from which on all accounts are audited in turn; a missed night is made up for."""

    webhook_private_addresses_allowed: bool = False
    """Whether webhooks may lead into private networks: only where all tenants are trusted with yours."""

    webhook_http_allowed: bool = False
    """Whether webhooks may be plain http."""

    currency_code: str = Field(default="BRL", pattern="^[A-Z]{3}$")
    """ISO 4217 code of the one currency in whose millionths all costs are; nothing is converted when it changes."""

    @field_validator("edge_secret")
    @classmethod
    def _long_enough_to_be_a_secret(cls, secret: SecretStr) -> SecretStr:
        if 0 < len(secret.get_secret_value()) < MIN_EDGE_SECRET:
            raise ValueError(f"must have at least {MIN_EDGE_SECRET} characters")
        return secret

    @field_validator("token_signing_key")
    @classmethod
    def _signing_key_with_line_ends(cls, pem: SecretStr) -> SecretStr:
        return SecretStr(pem.get_secret_value().replace("\\n", "\n"))
