"""What document_rag can be told from outside."""

from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from services.document_rag.assistants.model import ModelPrice
from shared.config import MIB, ServiceConfig, service_settings


class Config(ServiceConfig):
    """The settings of document_rag; variables start with DOCUMENT_RAG_ unless another name is given."""

    model_config = service_settings("DOCUMENT_RAG_")

    port: int = Field(default=50053, ge=0, le=65535)
    """gRPC port; 0 takes any free one."""

    database_url: SecretStr = Field(
        default=SecretStr("postgresql://127.0.0.1:5432/prosa"),
        validation_alias=AliasChoices("DOCUMENT_RAG_DATABASE_URL", "DATABASE_URL"),
    )
    """PostgreSQL with pgvector; the tables live in the schema document_rag."""

    database_max_connections: int = Field(default=10, ge=1)
    """Size of each of the two connection pools: one for everything, one for the queries over pushed chunks."""

    originals_url: str = ".prosa/originals"
    """Where uploaded files are kept: a directory, or file:///…, s3://bucket/prefix, gs://…, az://…"""

    max_document_bytes: int = Field(default=128 * MIB, gt=0)
    """Largest file that may be uploaded."""

    chunk_tokens: int = Field(default=200, ge=50, le=2000)
    """Most tokens of a chunk."""

    chunk_overlap_tokens: int = Field(default=25, ge=0, le=500)
    """Tokens at most that a chunk repeats of the one before it."""

    ingests_at_once: int = Field(default=2, ge=1, le=64)
    """Documents worked on at the same time; others wait."""

    upload_patience_seconds: float = Field(default=120.0, gt=0)
    """How long an upload waits for its document to be searchable before it is answered with how far that is."""

    ingestion_lease_seconds: float = Field(default=30.0, ge=1)
    """How long a document whose worker died waits for another one."""

    sweep_seconds: float = Field(default=3600.0, gt=0)
    """How often it is looked for what is left over: originals without a document, vectors not used for long."""

    orphan_original_hours: float = Field(default=24.0, ge=0.1)
    """How old an original without a document must be to be taken away."""

    embedding_cache_days: int = Field(default=90, ge=1)
    """How long the vector of a text is remembered after it was last needed."""

    upload_requests_kept_days: int = Field(default=30, ge=1)
    """How long an upload's request_id gets its first answer again; after that the same bytes are a duplicate."""

    embedding_calls_at_once: int = Field(default=4, ge=1, le=64)
    """Batches of texts that are with the embedding provider at the same time."""

    extraction_memory_bytes: int = Field(default=1024 * MIB, ge=256 * MIB)
    """Address space of the process that reads one file."""

    extraction_cpu_seconds: int = Field(default=120, ge=1)
    """Processor time that reading one file may take."""

    extraction_wall_seconds: float = Field(default=180.0, gt=0)
    """Time that reading one file may take."""

    embedder: Literal["hashed", "openai"] = "hashed"
    """hashed: embedded, no model, no network. openai: any OpenAI-compatible endpoint with 1536 dimensions."""

    embedding_model: str = "text-embedding-3-small"
    """Model asked of the endpoint when the embedder is openai."""

    embedding_deadline_seconds: float = Field(default=20.0, gt=0)
    """How long one batch of embeddings may take, retries included."""

    reranker: Literal["lexical", "http"] | None = None
    """Reads what a search found again. lexical: embedded. http: an endpoint with POST …/rerank. Unset: none."""

    rerank_url: str = "https://api.cohere.com/v2"
    """Address of the rerank endpoint, without /rerank."""

    rerank_model: str = "rerank-v3.5"
    """Model asked of the rerank endpoint."""

    rerank_key: SecretStr = Field(default=SecretStr(""))
    """Key of the rerank endpoint."""

    rerank_deadline_seconds: float = Field(default=2.0, gt=0)
    """How long a search waits for the rerank endpoint before it goes on without it."""

    vectors_compared_exactly: int | None = Field(default=None, ge=1)
    """Up to how many vectors of a tenant, or of a collection, are compared one by one: recall is 1 then. More get an
    approximate index. Unset: by their dimensions, 5000 at 1536, 10000 at 768 or fewer."""

    vector_index_memory_bytes: int = Field(default=1024 * MIB, ge=64 * MIB)
    """What PostgreSQL may use at most while it builds an approximate index."""

    vector_index_look_seconds: float = Field(default=3.0, gt=0)
    """How often it is looked whether an approximate index is due."""

    recall_sample_seconds: float = Field(default=60.0, gt=0)
    """How often the recall of an approximate index is sampled; each time of one."""

    openai_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("DOCUMENT_RAG_OPENAI_API_KEY", "OPENAI_API_KEY")
    )
    """Key of the OpenAI-compatible endpoint."""

    openai_base_url: str = Field(
        default="https://api.openai.com/v1",
        validation_alias=AliasChoices("DOCUMENT_RAG_OPENAI_BASE_URL", "OPENAI_BASE_URL"),
    )
    """Address of the OpenAI-compatible endpoint."""

    tenant_quota_target: str = "127.0.0.1:50051"
    """Where tenant_quota listens."""

    chat_store_target: str = "127.0.0.1:50052"
    """Where chat_store listens."""

    service_key: SecretStr = Field(default=SecretStr(""))
    """API key of role service, with which this service acts on its callers' behalf."""

    answer_provider: Literal["openai", "extractive"] | None = None
    """openai: an OpenAI-compatible endpoint. extractive: verbatim sentences, no model. Unset: openai with a key."""

    answer_model: str = "gpt-4o-mini"
    """Model of assistants that name none, when the provider is openai."""

    model_prices: dict[str, ModelPrice] = Field(default_factory=dict)
    """Price of models of which tenant_quota's price book knows none, in millionths of the currency per million tokens:
    {"gpt-4o-mini": {"input": 150000, "cached_input": 75000, "output": 600000, "reasoning": 600000}}"""

    passage_tokens: int = Field(default=3000, ge=200, le=100_000)
    """Most tokens of retrieved passages in a prompt."""

    history_tokens: int = Field(default=1500, ge=0, le=100_000)
    """Most tokens of earlier messages in a prompt."""

    history_messages: int = Field(default=12, ge=1, le=100)
    """Most earlier messages that are read for a prompt."""

    least_answer_tokens: int = Field(default=64, ge=1)
    """A turn begins only if the quota leaves at least so many tokens for its answer."""

    answer_timeout_seconds: float = Field(default=120.0, gt=0)
    """How long an answer may take to be written."""

    turn_drain_seconds: float = Field(default=6.0, ge=0)
    """How long, after the calls have ended, a stopping service goes on with answers whose reader has left."""

    provider_silence_seconds: float = Field(default=30.0, gt=0)
    """How long a provider may send nothing before it counts as failed."""

    reservation_lease_seconds: int = Field(default=180, ge=10, le=3600)
    """How long tokens stay held for a turn whose process died; longer than an answer may take."""

    turn_lease_seconds: float = Field(default=10.0, ge=1)
    """How long a turn whose process died keeps a retry of it waiting."""

    turns_kept_days: float = Field(default=7.0, gt=0)
    """How long a request_id of Ask is remembered."""

    @model_validator(mode="after")
    def _chunks_go_on(self) -> Self:
        if self.chunk_overlap_tokens >= self.chunk_tokens:
            raise ValueError("chunk_overlap_tokens must be less than chunk_tokens")
        return self

    @model_validator(mode="after")
    def _leases_outlive_answers(self) -> Self:
        if self.reservation_lease_seconds <= self.answer_timeout_seconds:
            raise ValueError("reservation_lease_seconds must be longer than answer_timeout_seconds")
        return self

    @field_validator("originals_url")
    @classmethod
    def _as_url(cls, place: str) -> str:
        return place if "://" in place else Path(place).resolve().as_uri()
