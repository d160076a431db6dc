"""What an upload, a document and its ingestion are, and the rules that need no database to decide.

The bytes of a document never change: other bytes are another document. Documents of one origin are versions of each
other, and search sees one of them at most.
"""

import enum
import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.document_rag.model import GLOBAL_LIBRARY, Scope, refuse_nul
from shared.errors import FailedPrecondition, FieldViolation, InvalidArgument

ALIKE_TITLES = 0.9  # trigram similarity from which a title makes an upload suspicious
MAX_CRASHES = 4  # of workers over one document, before it is taken for their cause
MAX_METADATA_BYTES = 64 * 1024
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


class OriginalMissing(FailedPrecondition):
    """The object store no longer has the file of a document."""

    reason = "ORIGINAL_MISSING"
    usual_message = "the object store does not have the original"


class IngestionCrashed(FailedPrecondition):
    """Worker after worker died over the document."""

    reason = "INGESTION_CRASHED"
    usual_message = "the processes that worked on it died, one after another"


class DocumentState(enum.Enum):
    """How far a document is; its order is the order of the way."""

    QUEUED = "queued"
    EXTRACTING = "extracting"
    CHUNKING = "chunking"
    EMBEDDING = "embedding"
    INDEXING = "indexing"
    READY = "ready"
    FAILED = "failed"
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        """Whether it stays so unless somebody acts."""
        return self in (DocumentState.READY, DocumentState.FAILED, DocumentState.SKIPPED)


class Policy(enum.Enum):
    """What is done with an upload that is not new."""

    SKIP = "skip"
    REPLACE = "replace"
    KEEP_BOTH = "keep_both"
    ASK = "ask"


class Verdict(enum.Enum):
    """What an upload turned out to be. None of them is an error."""

    NEW = "new"
    DUPLICATE_OF = "duplicate_of"
    NEW_VERSION_OF = "new_version_of"
    SUSPECTED = "suspected"


class Likeness(enum.Enum):
    """In what an upload is like a document that is there."""

    SOURCE = "source"
    BYTES = "bytes"
    TEXT = "text"
    TITLE = "title"


class Fate(enum.Enum):
    """What becomes of an upload."""

    DROPPED = "dropped"
    NEW_VERSION = "new_version"
    OWN_DOCUMENT = "own_document"


@dataclass(frozen=True, slots=True)
class Finding:
    """A document that an upload is like, and in what; `similarity` of the titles, from 0 to 1."""

    likeness: Likeness
    document_id: str
    similarity: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """What that makes of the upload."""
        match self.likeness:
            case Likeness.BYTES | Likeness.TEXT:
                return Verdict.DUPLICATE_OF
            case Likeness.SOURCE:
                return Verdict.NEW_VERSION_OF
            case Likeness.TITLE:
                return Verdict.SUSPECTED

    def fate(self, policy: Policy) -> Fate:
        """What the policy makes of the upload. Nothing is a new version of its own bytes."""
        match policy:
            case Policy.ASK:
                return Fate.DROPPED
            case Policy.KEEP_BOTH:
                return Fate.OWN_DOCUMENT
            case Policy.REPLACE:
                return Fate.DROPPED if self.likeness is Likeness.BYTES else Fate.NEW_VERSION
            case Policy.SKIP if self.verdict is Verdict.DUPLICATE_OF:
                return Fate.DROPPED
            case Policy.SKIP:
                return Fate.NEW_VERSION if self.likeness is Likeness.SOURCE else Fate.OWN_DOCUMENT


@dataclass(frozen=True, slots=True)
class Description:
    """What the uploader says about a file; "" where nothing was said. `metadata` is a JSON object."""

    request_id: str = ""
    title: str = ""
    filename: str = ""
    mime_type: str = ""
    source: str = ""
    policy: Policy = Policy.SKIP
    return_early: bool = False
    collection_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    language: str = ""

    def __post_init__(self) -> None:
        refuse_nul({name: text for name in self.__slots__ if isinstance(text := getattr(self, name), str)})
        checked_metadata(self.metadata)

    def values(self) -> tuple[str, ...]:
        """What a retry with the same request_id must repeat; said in the same way since the first version."""
        later = (self.source, self.collection_id, self.language)
        said = [self.title, self.filename, self.mime_type]
        if any(later) or self.metadata or self.policy is not Policy.SKIP:
            said += [*later, self.policy.value, json.dumps(self.metadata, sort_keys=True)]
        return tuple(said)


@dataclass(frozen=True, slots=True)
class NewDocument:
    """An upload as it was received, before anything was read out of it."""

    document_id: str
    said: Description
    size_bytes: int
    sha256: bytes

    def fingerprint(self) -> bytes:
        """What a retry with the same request_id must repeat: the bytes and their description."""
        parts = (self.sha256.hex(), *self.said.values())
        return hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).digest()


@dataclass(frozen=True, slots=True)
class StageError:
    """Why an attempt did not succeed. `next_attempt_at` None: it is not tried again by itself."""

    reason: str
    message: str
    stage: DocumentState
    at: datetime
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document as kept. Empty ids name nothing; `text_sha256` and the counts are empty until they are known."""

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
    state: DocumentState
    stage_error: StageError | None
    source: str
    is_current: bool
    previous_version_id: str
    text_sha256: bytes
    collection_id: str
    metadata: Mapping[str, Any]
    language: str
    scope: Scope
    verdict: Verdict
    related_document_id: str
    title_similarity: float
    given_title: str
    ready_at: datetime | None
    empty_page_count: int

    def owner(self, reader: str) -> str:
        """The tenant under which it is kept, for a reader that found it."""
        return GLOBAL_LIBRARY if self.scope is Scope.GLOBAL else reader


@dataclass(frozen=True, slots=True)
class UploadResult:
    """The document an upload led to: the new one if it was kept, else the one that was there."""

    verdict: Verdict
    document: Document
    kept: bool
    related_document_id: str = ""
    similarity: float = 0.0


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which documents are listed; nothing stated is all of the tenant's."""

    states: frozenset[DocumentState] = frozenset()
    collection_id: str = ""
    source: str = ""
    current_only: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a file that may be uploaded; empty where nothing is."""

    sha256: bytes = b""
    text_sha256: bytes = b""
    source: str = ""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a document is. `total` 0: not known yet."""

    document_id: str
    state: DocumentState
    done: int
    total: int
    attempt: int
    stage_error: StageError | None
    related_document_id: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a document is, and whether anybody goes on with it; `outcome` of the work that is over, else ""."""

    progress: Progress
    is_over: bool
    outcome: str
    verdict: Verdict
    similarity: float


class Cause(enum.Enum):
    """What keeps a document from being found, if anything does."""

    SEARCHABLE = "searchable"
    WAITING = "waiting"
    IN_WORK = "in_work"
    WORKER_LOST = "worker_lost"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"
    REEMBEDDING = "reembedding"
    ORIGINAL_MISSING = "original_missing"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A document, what there is of it in the index, and who is at work on it. `chunks_by_model` counts vectors."""

    document: Document
    attempts: int
    crashes: int
    is_leased: bool
    lease_until: datetime | None
    indexed_terms: int
    chunks_by_model: Mapping[str, int]
    searched_model: str
    has_original: bool

    @property
    def cause(self) -> Cause:
        """The first thing that stands in the way, else SEARCHABLE."""
        match self.document.state:
            case DocumentState.FAILED:
                return Cause.FAILED
            case DocumentState.SKIPPED:
                return Cause.SKIPPED
            case DocumentState.READY:
                return self._cause_of_ready()
        if self.lease_until is None:
            return Cause.WAITING
        return Cause.IN_WORK if self.is_leased else Cause.WORKER_LOST

    def _cause_of_ready(self) -> Cause:
        if not self.document.is_current:
            return Cause.SUPERSEDED
        if set(self.chunks_by_model) - {self.searched_model}:
            return Cause.REEMBEDDING
        return Cause.SEARCHABLE if self.has_original else Cause.ORIGINAL_MISSING

    @property
    def explanation(self) -> str:
        """The cause in a sentence, and what to do about it."""
        error = self.document.stage_error
        why = f" after: {error.message}" if error else ""
        match self.cause:
            case Cause.SEARCHABLE:
                return "search finds it by words and by vectors"
            case Cause.WAITING:
                return f"it waits for its next attempt{why}; RetryIngestion tries at once"
            case Cause.IN_WORK:
                return f"a worker is at it ({self.document.state.value})"
            case Cause.WORKER_LOST:
                return "its worker does not answer; another one takes over by itself"
            case Cause.FAILED:
                return f"it failed{why}; mend the cause and call RetryIngestion, or delete it"
            case Cause.SUPERSEDED:
                return "a newer version of it is found instead, or was deleted; upload it again to make it current"
            case Cause.SKIPPED:
                return f"its text is that of document {self.document.related_document_id}, and it was not kept"
            case Cause.REEMBEDDING:
                return "search finds it by words; vectors of the model now in use are being made"
            case Cause.ORIGINAL_MISSING:
                return "search finds it, but its original is missing: it cannot be downloaded or read anew"


def pause_seconds(failures: int) -> float:
    """How long an attempt after so many failures in a row waits: twice as long each time, up to a minute, jittered."""
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  (jitter, not a secret)


def checked_metadata(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata, if they can be kept: InvalidArgument for too many bytes or a NUL anywhere."""
    written = json.dumps(metadata)
    if len(written) > MAX_METADATA_BYTES:
        raise InvalidArgument(
            violations=[
                FieldViolation("metadata", f"has more than {MAX_METADATA_BYTES} bytes as JSON", "metadata.size")
            ]
        )
    refuse_nul({"metadata": "\0" if "\\u0000" in written else ""})
    return metadata
