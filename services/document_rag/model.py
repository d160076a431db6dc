"""What a document, a chunk and a found passage are, and the rules that need no database to decide.

A document is immutable: new bytes are a new document. A chunk is a verbatim span of the document's extracted text;
what is searched is that span under its context (title and section), what is quoted is the span alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.errors import InvalidArgument

RECIPROCAL_RANK_OFFSET = 60
LEXICAL_WEIGHT = 3.0  # measured: words find Portuguese paragraphs better than hashed vectors do
MAX_TOP_K = 50


class DocumentUnreadable(InvalidArgument):
    """The bytes are no readable document of a supported type, or reading them exceeded its limits."""

    reason = "DOCUMENT_UNREADABLE"


class DocumentEmpty(InvalidArgument):
    """The document was read but holds no text, as a scanned PDF does."""

    reason = "DOCUMENT_EMPTY"


class DocumentTooLarge(InvalidArgument):
    """The upload went past the size limit of this deployment."""

    reason = "DOCUMENT_TOO_LARGE"


class SearchMode(enum.Enum):
    """Which legs of the search may contribute."""

    VECTOR = "vector"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


class RetrievalMode(enum.Enum):
    """How the vectors were compared. EXACT: with every chunk in reach, so nothing was missed by an index."""

    EXACT = "exact"


class Verdict(enum.Enum):
    """What an upload turned out to be. None of them is an error."""

    NEW = "new"
    DUPLICATE_OF = "duplicate_of"


@dataclass(frozen=True, slots=True)
class Page:
    """Text of one page. `number` counts from 1; 0 means that the format has no pages."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class ExtractedText:
    """What extraction made of the bytes. `title` is "" when the document names none."""

    title: str
    media_type: str
    is_markdown: bool
    pages: tuple[Page, ...]


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
class NewDocument:
    """An upload as it was received: who sent what, before anything was read out of it."""

    document_id: str
    request_id: str
    title: str
    file_name: str
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A document as kept. `deleted_at` set = a tombstone: its chunks and original are gone."""

    document_id: str
    title: str
    file_name: str
    media_type: str
    size_bytes: int
    sha256: bytes
    version: int
    pages: int
    chunks: int
    tokens: int
    embedding_model: str
    created_at: datetime
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class UploadResult:
    """The document an upload led to: the new one, or the one that already held the same bytes."""

    verdict: Verdict
    document: Document


@dataclass(frozen=True, slots=True)
class Passage:
    """A found chunk. `text` is verbatim; `score` orders the passages of one search and means nothing across searches."""

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


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Passages, best first, and how the vectors were compared."""

    passages: tuple[Passage, ...]
    retrieval_mode: RetrievalMode


def fuse_by_rank(
    vector: Sequence[str], keyword: Sequence[str], *, lexical_weight: float = LEXICAL_WEIGHT
) -> Mapping[str, float]:
    """Reciprocal rank fusion: scores by chunk id, best first. A chunk missing from a leg gets nothing from it."""
    scores: dict[str, float] = {}
    for weight, leg in ((lexical_weight, keyword), (1.0, vector)):
        for rank, chunk_id in enumerate(leg, start=1):
            scores[chunk_id] = scores.get(chunk_id, 0.0) + weight / (RECIPROCAL_RANK_OFFSET + rank)
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))


def document_text(pages: Iterable[Page]) -> str:
    """The text that character spans count in: the pages, one empty line between them."""
    return "\n\n".join(page.text for page in pages)


def document_title(given: str, extracted: str, file_name: str) -> str:
    """The uploader's title, else the document's own, else the file name without its ending."""
    stem = file_name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return given.strip() or extracted.strip() or stem.strip() or "Sem título"
