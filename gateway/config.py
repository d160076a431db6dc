"""What the gateway can be told from outside: GATEWAY_* variables."""

import re
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from shared.config import MIB, ServiceConfig, service_settings


class Config(ServiceConfig):
    """Settings of the gateway; those of every service apply too."""

    model_config = service_settings("GATEWAY_")

    port: int = Field(default=8080, ge=0, le=65535)
    """HTTP port; 0 takes any free one."""

    tenant_quota_target: str = "127.0.0.1:50051"
    """Where tenant_quota listens, as gRPC names it."""

    chat_store_target: str = "127.0.0.1:50052"
    """Where chat_store listens."""

    document_rag_target: str = "127.0.0.1:50053"
    """Where document_rag listens."""

    analytics_target: str = "127.0.0.1:50054"
    """Where analytics listens."""

    unary_seconds: float = Field(default=30.0, gt=0)
    """Longest a call may take; a client may ask for less with x-request-timeout-seconds."""

    stream_seconds: float = Field(default=300.0, gt=0)
    """Longest a stream of events or an upload may take."""

    json_body_bytes: int = Field(default=MIB, gt=0)
    """Largest JSON body; of methods whose contract takes a longer text, as much beside that text."""

    large_bodies_bytes: int = Field(default=256 * MIB, gt=0)
    """Most bytes of JSON bodies above json_body_bytes that are held at once; what is more is refused as UNAVAILABLE."""

    upload_bytes: int = Field(default=128 * MIB, gt=0)
    """Largest uploaded file."""

    header_bytes: int = Field(default=32 * 1024, gt=0)
    """Largest request line with its headers."""

    header_seconds: float = Field(default=10.0, gt=0)
    """How long a client may take to send its headers."""

    body_idle_seconds: float = Field(default=10.0, gt=0)
    """How long a client may be silent in the middle of a body."""

    json_body_seconds: float = Field(default=20.0, gt=0)
    """How long a client may take to send a whole JSON body."""

    slow_reader_seconds: float = Field(default=30.0, gt=0)
    """How long a client may leave a stream unread before the connection is cut."""

    heartbeat_seconds: float = Field(default=15.0, gt=0)
    """A stream that was silent for this long sends a comment; one that has not begun sends its headers."""

    keep_alive_seconds: int = Field(default=75, gt=0)
    """How long an idle connection stays open."""

    credential_cache_seconds: float = Field(default=3.0, ge=0)
    """How long a resolved API key or session is believed, unless its token ends before."""

    refusal_cache_seconds: float = Field(default=1.0, ge=0)
    """How long a refused API key is refused without asking again."""

    credential_cache_size: int = Field(default=10_000, gt=0)
    """Most API keys and sessions remembered."""

    follow_callers_sampling: bool = False
    """Whether a caller's traceparent says which traces are recorded; true only behind a proxy that writes it itself."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may call, exact, with commas between, as in https://app.example.org; none by default."""

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, origins: object) -> object:
        if not isinstance(origins, str):
            return origins
        return tuple(part.strip() for part in origins.split(",") if part.strip())

    @field_validator("cors_origins")
    @classmethod
    def _refuse_wildcards(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[^/*\s]+", origin):
                raise ValueError(f"{origin!r} is no origin such as https://app.example.org")
        return origins

    def target_of(self, upstream: str) -> str:
        """Where the service of this name listens."""
        target: str = getattr(self, f"{upstream}_target")
        return target
