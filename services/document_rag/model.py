"""What a document, a chunk and a found passage are, and the rules that need no database to decide.

A document is immutable: new bytes are a new document. A chunk is a verbatim span of the document's extracted text;
what is searched is that span under its context (title and section), what is quoted is the span alone.
"""

import enum
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from shared.errors import FieldViolation, InvalidArgument

RECIPROCAL_RANK_OFFSET = 60
LEXICAL_WEIGHT = 3.0  # measured: words find Portuguese paragraphs better than hashed vectors do
DEFAULT_TOP_K = 8
MAX_TITLE_CHARACTERS = 500
PAGE_BREAK = "\n\n"
SECTION_SEPARATOR = " › "


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


class SearchMode(enum.Enum):
    """Which legs of the search may contribute."""

    VECTOR = "vector"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


class RetrievalMode(enum.Enum):
    """How the vectors were compared. EXACT: with every chunk in reach, so no index can have missed one."""

    NONE = "none"
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
    mime_type: str
    is_markdown: bool
    pages: tuple[Page, ...]

    @property
    def text(self) -> str:
        """The text that character spans count in: the pages, one empty line between them."""
        return PAGE_BREAK.join(page.text for page in self.pages)

    @property
    def page_count(self) -> int:
        """Pages; 0 when the format has none."""
        return sum(1 for page in self.pages if page.number)


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
class Description:
    """What the uploader says about a file; "" where nothing was said."""

    request_id: str = ""
    title: str = ""
    filename: str = ""
    mime_type: str = ""

    def __post_init__(self) -> None:
        refuse_nul({name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class NewDocument:
    """An upload as it was received, before anything was read out of it."""

    document_id: str
    said: Description
    size_bytes: int
    sha256: bytes

    def fingerprint(self) -> bytes:
        """What a retry with the same request_id must repeat: the bytes and their description."""
        parts = (self.sha256.hex(), self.said.title, self.said.filename, self.said.mime_type)
        return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).digest()


@dataclass(frozen=True, slots=True)
class Document:
    """A document as kept."""

    document_id: str
    title: str
    filename: str
    mime_type: str
    size_bytes: int
    sha256: bytes
    version: int
    page_count: int
    chunk_count: int
    token_count: int
    char_count: int
    embedding_model: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UploadResult:
    """The document an upload led to: the new one, or the one that already held the same bytes."""

    verdict: Verdict
    document: Document


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


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Passages, best first, and how the vectors were compared.

    `word_weights`: how much each folded word of the query tells passages apart in the tenant's documents.
    """

    passages: tuple[Passage, ...]
    retrieval_mode: RetrievalMode
    word_weights: Mapping[str, float]


def fuse_by_rank(by_vector: Sequence[Ranked], by_words: Sequence[Ranked]) -> dict[Ranked, float]:
    """Reciprocal rank fusion: score by item, best first. What a leg did not find gets nothing from it."""
    scores: dict[Ranked, float] = {}
    for weight, leg in ((LEXICAL_WEIGHT, by_words), (1.0, by_vector)):
        for rank, item in enumerate(leg, start=1):
            scores[item] = scores.get(item, 0.0) + weight / (RECIPROCAL_RANK_OFFSET + rank)
    return dict(sorted(scores.items(), key=lambda entry: -entry[1]))


def document_title(given: str, extracted: str, filename: str) -> str:
    """The uploader's title, else the document's own, else the file name without its ending; on one line."""
    stem = filename.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    titles = (_on_one_line(title) for title in (given, extracted, stem))
    return next(filter(None, titles), "Sem título")


def refuse_nul(texts: Mapping[str, str]) -> None:
    """InvalidArgument naming the first text with a NUL, which PostgreSQL cannot keep; by the path of its field."""
    for field, text in texts.items():
        if "\0" in text:
            description = "must not contain the character U+0000"
            raise InvalidArgument(violations=[FieldViolation(field, description, "string.nul")])


def _on_one_line(title: str) -> str:
    """What a file calls its title may hold anything: control characters, half of a surrogate pair, a whole book."""
    printable = "".join(letter if letter.isprintable() else " " for letter in title[: 2 * MAX_TITLE_CHARACTERS])
    return " ".join(printable.split())[:MAX_TITLE_CHARACTERS].strip()
