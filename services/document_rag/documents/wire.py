"""Documents between protobuf and the model."""

from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.document_rag.v1 import document_service_pb2 as documents_pb2
from services.document_rag.documents.model import (
    Cause,
    Description,
    Diagnosis,
    Document,
    DocumentState,
    Finding,
    Known,
    ListFilter,
    Policy,
    Progress,
    StageError,
    UploadResult,
    Verdict,
    checked_metadata,
)
from services.document_rag.model import MAX_TITLE_CHARACTERS, Scope, refuse_nul
from services.document_rag.scope_wire import scope_to_proto, scope_to_write
from shared.errors import FieldViolation, InvalidArgument

_VERDICTS = {each: documents_pb2.Verdict.Value(f"VERDICT_{each.name}") for each in Verdict}
_STATES = {each: documents_pb2.DocumentState.Value(f"DOCUMENT_STATE_{each.name}") for each in DocumentState}
_STATES_WANTED = {number: state for state, number in _STATES.items()}
_POLICIES = {
    documents_pb2.DUPLICATE_POLICY_UNSPECIFIED: Policy.SKIP,
    **{documents_pb2.DuplicatePolicy.Value(f"DUPLICATE_POLICY_{each.name}"): each for each in Policy},
}
_CAUSES = {each: documents_pb2.Diagnosis.Cause.Value(f"CAUSE_{each.name}") for each in Cause}

UploadStream = AsyncIterator[documents_pb2.UploadDocumentRequest]


async def upload_of(requests: UploadStream) -> tuple[Description, Scope, AsyncIterator[bytes]]:
    """The description in the first message, and the bytes of all of them. An empty stream describes nothing."""
    first = await anext(requests, documents_pb2.UploadDocumentRequest())
    description = Description(
        request_id=first.request_id,
        title=first.title,
        filename=first.filename,
        mime_type=first.mime_type,
        source=first.source,
        policy=_POLICIES[first.policy],
        return_early=first.return_early,
        collection_id=first.collection_id,
        metadata=MessageToDict(first.metadata),
        language=first.language,
    )
    return description, scope_to_write(first.scope), _pieces(first, requests)


async def _pieces(first: documents_pb2.UploadDocumentRequest, others: UploadStream) -> AsyncIterator[bytes]:
    yield first.chunk
    async for request in others:
        yield request.chunk


def upload_response(result: UploadResult) -> documents_pb2.UploadDocumentResponse:
    """The answer to an upload."""
    return documents_pb2.UploadDocumentResponse(
        document=document_message(result.document),
        verdict=_VERDICTS[result.verdict],
        related_document_id=result.related_document_id,
        kept=result.kept,
        title_similarity=result.similarity,
    )


def document_message(document: Document) -> documents_pb2.Document:
    """A document as clients see it."""
    message = documents_pb2.Document(
        document_id=document.document_id,
        title=document.title,
        filename=document.filename,
        mime_type=document.mime_type,
        size_bytes=document.size_bytes,
        sha256=document.sha256.hex(),
        version=document.version,
        page_count=document.page_count,
        empty_page_count=document.empty_page_count,
        chunk_count=document.chunk_count,
        token_count=document.token_count,
        char_count=document.char_count,
        embedding_model=document.embedding_model,
        create_time=_time(document.created_at),
        state=_STATES[document.state],
        stage_error=_stage_error(document.stage_error),
        source=document.source,
        is_current=document.is_current,
        previous_version_id=document.previous_version_id,
        text_sha256=document.text_sha256.hex(),
        collection_id=document.collection_id,
        language=document.language,
        scope=scope_to_proto(document.scope),
        verdict=_VERDICTS[document.verdict],
        related_document_id=document.related_document_id,
        ready_time=_time(document.ready_at),
    )
    message.metadata.update(dict(document.metadata))
    return message


def document_list(documents: Iterable[Document], next_page_token: str) -> documents_pb2.ListDocumentsResponse:
    """One page of documents."""
    return documents_pb2.ListDocumentsResponse(
        documents=map(document_message, documents), next_page_token=next_page_token
    )


def version_list(documents: Iterable[Document], next_page_token: str) -> documents_pb2.ListDocumentVersionsResponse:
    """One page of versions."""
    return documents_pb2.ListDocumentVersionsResponse(
        documents=map(document_message, documents), next_page_token=next_page_token
    )


def list_of(request: documents_pb2.ListDocumentsRequest) -> tuple[ListFilter, dict[str, Any]]:
    """Which documents are wanted, and the query that a page token is bound to."""
    refuse_nul({"source": request.source})
    wanted = ListFilter(
        states=frozenset(_STATES_WANTED[state] for state in request.states if state in _STATES_WANTED),
        collection_id=request.collection_id,
        source=request.source,
        current_only=request.current_only,
    )
    narrowed = {
        "states": sorted(state.value for state in wanted.states),
        "collection": wanted.collection_id,
        "source": wanted.source,
        "current": wanted.current_only,
        "scope": request.scope,
    }
    query = {"list": "documents", **{name: value for name, value in narrowed.items() if value}}
    return wanted, query


def list_position(position: Mapping[str, Any] | None) -> str | None:
    """The document after which a page begins; InvalidArgument for a position that no page of ours ends with."""
    if position is None:
        return None
    try:
        return str(UUID(position["before"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID") from None


def version_position(position: Mapping[str, Any] | None) -> int | None:
    """The version below which a page begins; InvalidArgument as in list_position."""
    if position is None:
        return None
    before = position.get("before")
    if type(before) is not int or not 0 < before < 2**31:
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID")
    return before


def changes_of(request: documents_pb2.UpdateDocumentRequest) -> dict[str, Any]:
    """The new values of the fields named by the mask, checked; InvalidArgument for a field that cannot be changed."""
    changes: dict[str, Any] = {}
    for path in request.update_mask.paths:
        if path not in ("title", "metadata", "collection_id"):
            text = "is no field that can be changed"
            raise InvalidArgument(violations=[FieldViolation(f"update_mask.{path}", text, "field_mask.path")])
        value = getattr(request.document, path)
        changes[path] = checked_metadata(MessageToDict(value)) if path == "metadata" else value
    refuse_nul({f"document.{name}": text for name, text in changes.items() if isinstance(text, str)})
    if "title" in changes and not 0 < len(changes["title"].strip()) <= MAX_TITLE_CHARACTERS:
        text = f"must have 1 to {MAX_TITLE_CHARACTERS} characters"
        raise InvalidArgument(violations=[FieldViolation("document.title", text, "string.length")])
    return changes


def known_of(request: documents_pb2.CheckDuplicateRequest) -> Known:
    """What is known of a file."""
    refuse_nul({"source": request.source, "title": request.title})
    digests = bytes.fromhex(request.sha256), bytes.fromhex(request.text_sha256)
    return Known(*digests, request.source, request.title)


def check_response(found: tuple[Finding, Document] | None) -> documents_pb2.CheckDuplicateResponse:
    """What an upload would turn out to be."""
    if found is None:
        return documents_pb2.CheckDuplicateResponse(verdict=documents_pb2.VERDICT_NEW)
    finding, document = found
    return documents_pb2.CheckDuplicateResponse(
        verdict=_VERDICTS[finding.verdict], document=document_message(document), title_similarity=finding.similarity
    )


def progress_message(progress: Progress) -> documents_pb2.IngestionProgress:
    """How far a document is."""
    return documents_pb2.IngestionProgress(
        document_id=progress.document_id,
        state=_STATES[progress.state],
        done=progress.done,
        total=progress.total,
        attempt=progress.attempt,
        stage_error=_stage_error(progress.stage_error),
        related_document_id=progress.related_document_id,
    )


def diagnosis_message(diagnosis: Diagnosis) -> documents_pb2.Diagnosis:
    """Why a document is searchable or is not."""
    embedded = [
        documents_pb2.EmbeddedChunks(
            embedding_model=model, chunks=chunks, is_searched=model == diagnosis.searched_model
        )
        for model, chunks in sorted(diagnosis.chunks_by_model.items())
    ]
    return documents_pb2.Diagnosis(
        document=document_message(diagnosis.document),
        cause=_CAUSES[diagnosis.cause],
        explanation=diagnosis.explanation,
        is_searchable=diagnosis.document.is_current,
        attempts=diagnosis.attempts,
        crashes=diagnosis.crashes,
        lease_time=_time(diagnosis.lease_until),
        indexed_chunks=sum(diagnosis.chunks_by_model.values()),
        indexed_terms=diagnosis.indexed_terms,
        embedded_chunks=embedded,
        has_original=diagnosis.has_original,
    )


async def download_messages(
    document: Document, pieces: AsyncIterator[bytes]
) -> AsyncIterator[documents_pb2.DownloadOriginalResponse]:
    """What the file is, then its bytes."""
    yield documents_pb2.DownloadOriginalResponse(
        filename=document.filename,
        mime_type=document.mime_type,
        size_bytes=document.size_bytes,
        sha256=document.sha256.hex(),
    )
    async for piece in pieces:
        yield documents_pb2.DownloadOriginalResponse(chunk=piece)


def _stage_error(error: StageError | None) -> documents_pb2.StageError | None:
    if error is None:
        return None
    return documents_pb2.StageError(
        reason=error.reason,
        message=error.message,
        stage=_STATES[error.stage],
        time=_time(error.at),
        next_attempt_time=_time(error.next_attempt_at),
    )


def _time(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    time = Timestamp()
    time.FromDatetime(moment)
    return time
