"""What a document, a chunk and a found passage are, and the rules that need no database to decide.

A document is immutable: new bytes are a new document. A chunk is a verbatim span of the document's extracted text;
what is searched is that span under its context (title and section), what is quoted is the span alone.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from shared.errors import AlreadyExists, FailedPrecondition, FieldViolation, InvalidArgument, Unavailable

RECIPROCAL_RANK_OFFSET = 60
LEXICAL_WEIGHT = 3.0  # measured: words find Portuguese paragraphs better than hashed vectors do
DEFAULT_TOP_K = 8
MAX_TITLE_CHARACTERS = 500
GLOBAL_LIBRARY = "~library"  # the tenant that every tenant reads; no tenant's id may hold a tilde


Ranked = TypeVar("Ranked", bound=Hashable)


class DocumentUnreadable(InvalidArgument):
    """The bytes are no readable document of a supported type, or reading them exceeded its limits."""

    reason = "DOCUMENT_UNREADABLE"


class DocumentEmpty(InvalidArgument):
    """The document was read but holds no text, as a scanned PDF does."""

    reason = "DOCUMENT_EMPTY"


class DocumentTooLarge(InvalidArgument):
    """The upload went past the size limit of this deployment."""

    reason = "DOCUMENT_TOO_LARGE"


class EmbeddingDimensionsWrong(Unavailable):
    """The embedding provider's vectors have another length than this deployment stores."""

    reason = "EMBEDDING_DIMENSIONS_WRONG"


class CollectionNameTaken(AlreadyExists):
    """Another collection of the tenant, or of the library, has the name."""

    reason = "COLLECTION_NAME_TAKEN"


class CollectionNotEmpty(FailedPrecondition):
    """The collection holds documents or pushed chunks, and they are not to be deleted with it."""

    reason = "COLLECTION_NOT_EMPTY"

    def __init__(self, documents: int, chunks: int = 0) -> None:
        held = f"{documents} documents" if documents else f"{chunks} chunks"
        metadata = {"documents": str(documents), "chunks": str(chunks)}
        super().__init__(f"the collection holds {held}", metadata=metadata)


class SearchMode(enum.Enum):
    """Which legs of the search may contribute."""

    VECTOR = "vector"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


class RetrievalMode(enum.Enum):
    """How the vectors were compared. EXACT: with every chunk in reach, so no index can have missed one.

    INDEX: through an approximate index that gave enough. EXACT_FALLBACK: it gave too few, so all were compared.
    """

    NONE = "none"
    EXACT = "exact"
    INDEX = "index"
    EXACT_FALLBACK = "exact_fallback"


class Scope(enum.Enum):
    """Whose documents: the tenant's, or those of the global library that every tenant reads."""

    TENANT = "tenant"
    GLOBAL = "global"


class Comparison(enum.Enum):
    """How a field of a document's metadata is compared. NE holds, too, where the field is missing."""

    EQ = "eq"
    NE = "ne"
    IN = "in"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    EXISTS = "exists"


MetadataValue = str | float | bool | datetime


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of one field of the metadata. Values of another type than the field's never compare equal.

    One value; any number with IN; none or one boolean with EXISTS. InvalidArgument for any other number or type.
    """

    field: str
    comparison: Comparison
    values: tuple[MetadataValue, ...] = ()

    def __post_init__(self) -> None:
        refuse_nul({f"metadata_filter.{n}": text for n, text in enumerate((self.field, *self._texts()))})
        many, kinds = len(self.values), {type(value) for value in self.values}
        match self.comparison:
            case Comparison.IN:
                fits = many > 0 and len(kinds) == 1
            case Comparison.EXISTS:
                fits = many == 0 or (many == 1 and kinds == {bool})
            case Comparison.EQ | Comparison.NE:
                fits = many == 1
            case _:
                fits = many == 1 and kinds != {bool}
        if not fits:
            text = f"{self.comparison.value} does not go with these values"
            raise InvalidArgument(violations=[FieldViolation("metadata_filter.values", text, "metadata.values")])

    def _texts(self) -> list[str]:
        return [value for value in self.values if isinstance(value, str)]


@dataclass(frozen=True, slots=True)
class Filter:
    """What of the documents in reach may be found. Nothing stated is everything: the tenant's and the library's.

    `document_ids` and `collection_ids` are one set: documents of either. `conditions` must all hold; `languages` are
    alternatives (ISO 639-1). `scope` None: the tenant and the global library. An id that names nothing finds nothing.
    """

    document_ids: tuple[str, ...] = ()
    collection_ids: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    languages: tuple[str, ...] = ()
    scope: Scope | None = None

    def libraries(self, tenant_id: str) -> tuple[str, ...]:
        """The tenants whose rows are read: the caller's, the global library's, or both."""
        own = (tenant_id,) if self.scope is not Scope.GLOBAL else ()
        shared = (GLOBAL_LIBRARY,) if self.scope is not Scope.TENANT else ()
        return tuple(dict.fromkeys(own + shared))

    @property
    def is_narrow(self) -> bool:
        """Whether anything is left out of what the scope allows."""
        return bool(self.document_ids or self.collection_ids or self.conditions or self.languages)


EVERYTHING = Filter()


@dataclass(frozen=True, slots=True)
class CollectionFields:
    """What a client sets of a collection; with `embedding_model` its chunks come with vectors of those dimensions."""

    display_name: str
    description: str = ""
    embedding_model: str = ""
    dimensions: int = 0

    def __post_init__(self) -> None:
        texts = ("display_name", "description", "embedding_model")
        refuse_nul({f"collection.{name}": getattr(self, name) for name in texts})
        if bool(self.embedding_model) != bool(self.dimensions):
            text = "a model of one's own vectors and their dimensions go together"
            raise InvalidArgument(violations=[FieldViolation("collection.dimensions", text, "collection.dimensions")])

    def values(self) -> tuple[str, str, str, int]:
        """Name, description, model and dimensions."""
        return self.display_name, self.description, self.embedding_model, self.dimensions

    def fingerprint(self) -> bytes:
        """What a retry with the same request_id must repeat."""
        return hashlib.sha256(repr(self.values()).encode()).digest()


@dataclass(frozen=True, slots=True)
class CollectionPlace:
    """Where a collection stands in a list: the tenant's before the library's, each by name."""

    scope: Scope
    display_name: str
    collection_id: str


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as kept."""

    collection_id: str
    display_name: str
    description: str
    scope: Scope
    embedding_model: str
    dimensions: int
    document_count: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """A verbatim span of the document's text. `page` 0 = no pages; spans count characters, end exclusive."""

    ordinal: int
    page: int
    char_start: int
    char_end: int
    section: str
    text: str
    tokens: int

    def searchable(self, title: str) -> str:
        """The span under its title and section, so that a chunk is found by what it is about."""
        return "\n".join(part for part in (title, self.section, self.text) if part)


@dataclass(frozen=True, slots=True)
class Passage:
    """A found chunk. `text` is verbatim; `score` orders the passages of one search only."""

    chunk_id: str
    document_id: str
    title: str
    version: int
    page: int
    section: str
    char_start: int
    char_end: int
    text: str
    score: float
    collection_id: str = ""
    scope: Scope = Scope.TENANT
    language: str = "pt"
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Passages, best first, and how the vectors were compared. `reranker` put them in order last; "": none did.

    `word_weights`: how much each folded word of the query tells passages apart in the tenant's documents.
    """

    passages: tuple[Passage, ...]
    retrieval_mode: RetrievalMode
    word_weights: Mapping[str, float]
    reranker: str = ""


def fuse_by_rank(
    by_vector: Sequence[Ranked], by_words: Sequence[Ranked], words_weigh: float = LEXICAL_WEIGHT
) -> dict[Ranked, float]:
    """Reciprocal rank fusion: score by item, best first. What a leg did not find gets nothing from it."""
    scores: dict[Ranked, float] = {}
    for weight, leg in ((words_weigh, by_words), (1.0, by_vector)):
        for rank, item in enumerate(leg, start=1):
            scores[item] = scores.get(item, 0.0) + weight / (RECIPROCAL_RANK_OFFSET + rank)
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))


def document_title(given: str, extracted: str, filename: str) -> str:
    """The uploader's title, else the document's own, else the file name without its ending; on one line."""
    stem = filename.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    titles = (printable_title(title) for title in (given, extracted, stem))
    return next(filter(None, titles), "Sem título")


def refuse_nul(texts: Mapping[str, str]) -> None:
    """InvalidArgument naming the first text with a NUL, which PostgreSQL cannot keep; by the path of its field."""
    for field, text in texts.items():
        if "\0" in text:
            description = "must not contain the character U+0000"
            raise InvalidArgument(violations=[FieldViolation(field, description, "string.nul")])


def printable_title(title: str) -> str:
    """What a file calls its title may hold anything: control characters, half of a surrogate pair, a whole book."""
    printable = "".join(letter if letter.isprintable() else " " for letter in title[: 2 * MAX_TITLE_CHARACTERS])
    return " ".join(printable.split())[:MAX_TITLE_CHARACTERS].strip()
