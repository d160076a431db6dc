"""DocumentService: one RPC, one intent."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from prosa.document_rag.v1 import document_service_pb2 as documents_pb2
from prosa.document_rag.v1 import document_service_pb2_grpc
from services.document_rag.documents import wire
from services.document_rag.documents.document_store import DocumentStore
from services.document_rag.documents.ingest import Ingest
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token

Context = grpc.aio.ServicerContext[Any, Any]

_LIST = {"list": "documents"}


class DocumentHandlers(document_service_pb2_grpc.DocumentServiceServicer):
    """Documents of the caller's tenant."""

    def __init__(self, ingest: Ingest, store: DocumentStore) -> None:
        self._ingest = ingest
        self._store = store

    async def UploadDocument(
        self, request_iterator: wire.UploadStream, _context: Context
    ) -> documents_pb2.UploadDocumentResponse:
        description, pieces = await wire.upload_of(request_iterator)
        result = await self._ingest.upload(current_caller().tenant_id, description, pieces)
        return wire.upload_response(result)

    async def GetDocument(self, request: documents_pb2.GetDocumentRequest, _context: Context) -> documents_pb2.Document:
        document = await self._store.get(current_caller().tenant_id, request.document_id)
        return wire.document_message(document)

    async def ListDocuments(
        self, request: documents_pb2.ListDocumentsRequest, _context: Context
    ) -> documents_pb2.ListDocumentsResponse:
        size = page_size(request.page_size)
        before = wire.list_position(page_position(request.page_token, _LIST))
        documents = await self._store.list(current_caller().tenant_id, before=before, limit=size + 1)
        more = page_token(_LIST, {"before": documents[size - 1].document_id}) if documents[size:] else ""
        return wire.document_list(documents[:size], more)

    async def DeleteDocument(self, request: documents_pb2.DeleteDocumentRequest, _context: Context) -> Empty:
        await self._ingest.delete(current_caller().tenant_id, request.document_id)
        return Empty()
