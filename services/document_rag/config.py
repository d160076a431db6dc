"""What document_rag can be told from outside."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator

from shared.config import MIB, ServiceConfig, service_settings


class Config(ServiceConfig):
    """The settings of document_rag; variables start with DOCUMENT_RAG_ unless another name is given."""

    model_config = service_settings("DOCUMENT_RAG_")

    port: int = Field(default=50053, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    database_url: SecretStr = Field(validation_alias=AliasChoices("DOCUMENT_RAG_DATABASE_URL", "DATABASE_URL"))
    """PostgreSQL with pgvector; the tables live in the schema document_rag."""

    database_max_connections: int = Field(default=10, ge=1)
    """Size of the connection pool."""

    originals_url: str = ".prosa/originals"
    """Where uploaded files are kept: a directory, or file:///…, s3://bucket/prefix, gs://…, az://…"""

    max_document_bytes: int = Field(default=25 * MIB, gt=0)
    """Largest file that may be uploaded."""

    chunk_characters: int = Field(default=800, ge=200, le=4000)
    """Most characters of a chunk."""

    chunk_overlap_characters: int = Field(default=100, ge=0, le=400)
    """Characters at most that a chunk repeats of the one before it."""

    ingests_at_once: int = Field(default=2, ge=1, le=64)
    """Uploads worked on at the same time; others wait."""

    extraction_memory_bytes: int = Field(default=1024 * MIB, ge=256 * MIB)
    """Address space of the process that reads one file."""

    extraction_cpu_seconds: int = Field(default=60, ge=1)
    """Processor time that reading one file may take."""

    extraction_wall_seconds: float = Field(default=90.0, gt=0)
    """Time that reading one file may take."""

    embedder: Literal["hashed", "openai"] = "hashed"
    """hashed: embedded, no model, no network. openai: any OpenAI-compatible endpoint with 1536 dimensions."""

    embedding_model: str = "text-embedding-3-small"
    """Model asked of the endpoint when the embedder is openai."""

    embedding_deadline_seconds: float = Field(default=20.0, gt=0)
    """How long one batch of embeddings may take, retries included."""

    openai_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("DOCUMENT_RAG_OPENAI_API_KEY", "OPENAI_API_KEY")
    )
    """Key of the OpenAI-compatible endpoint."""

    openai_base_url: str = Field(
        default="https://api.openai.com/v1",
        validation_alias=AliasChoices("DOCUMENT_RAG_OPENAI_BASE_URL", "OPENAI_BASE_URL"),
    )
    """Address of the OpenAI-compatible endpoint."""

    @field_validator("originals_url")
    @classmethod
    def _as_url(cls, place: str) -> str:
        return place if "://" in place else Path(place).resolve().as_uri()
