"""Documents between protobuf and the model."""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from prosa.document_rag.v1 import document_service_pb2 as documents_pb2
from services.document_rag.model import Description, Document, UploadResult, Verdict
from shared.errors import InvalidArgument

_VERDICTS = {
    Verdict.NEW: documents_pb2.VERDICT_NEW,
    Verdict.DUPLICATE_OF: documents_pb2.VERDICT_DUPLICATE_OF,
}

UploadStream = AsyncIterator[documents_pb2.UploadDocumentRequest]


async def upload_of(requests: UploadStream) -> tuple[Description, AsyncIterator[bytes]]:
    """The description in the first message, and the bytes of all of them. An empty stream describes nothing."""
    first = await anext(requests, documents_pb2.UploadDocumentRequest())
    description = Description(first.request_id, first.title, first.filename, first.mime_type)
    return description, _pieces(first, requests)


async def _pieces(first: documents_pb2.UploadDocumentRequest, others: UploadStream) -> AsyncIterator[bytes]:
    yield first.chunk
    async for request in others:
        yield request.chunk


def upload_response(result: UploadResult) -> documents_pb2.UploadDocumentResponse:
    """The answer to an upload."""
    return documents_pb2.UploadDocumentResponse(
        document=document_message(result.document), verdict=_VERDICTS[result.verdict]
    )


def document_message(document: Document) -> documents_pb2.Document:
    """A document as clients see it."""
    created = Timestamp()
    created.FromDatetime(document.created_at)
    return documents_pb2.Document(
        document_id=document.document_id,
        title=document.title,
        filename=document.filename,
        mime_type=document.mime_type,
        size_bytes=document.size_bytes,
        sha256=document.sha256.hex(),
        version=document.version,
        page_count=document.page_count,
        chunk_count=document.chunk_count,
        token_count=document.token_count,
        char_count=document.char_count,
        embedding_model=document.embedding_model,
        create_time=created,
    )


def document_list(documents: Iterable[Document], next_page_token: str) -> documents_pb2.ListDocumentsResponse:
    """One page of documents."""
    return documents_pb2.ListDocumentsResponse(
        documents=map(document_message, documents), next_page_token=next_page_token
    )


def list_position(position: Mapping[str, Any] | None) -> str | None:
    """The document after which a page begins; InvalidArgument for a position that no page of ours ends with."""
    if position is None:
        return None
    try:
        return str(UUID(position["before"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID") from None
