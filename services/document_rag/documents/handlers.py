"""DocumentService: one RPC, one intent."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from prosa.document_rag.v1 import document_service_pb2 as documents_pb2
from prosa.document_rag.v1 import document_service_pb2_grpc
from services.document_rag.documents import wire
from services.document_rag.documents.admission import Admission
from services.document_rag.documents.document_store import DocumentStore
from services.document_rag.documents.ingest import Ingest
from services.document_rag.scope_wire import scope_to_write
from services.document_rag.scopes import home_of_writes, reading_tenant, tenant_read, writing_tenant
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token

Context = grpc.aio.ServicerContext[Any, Any]


class DocumentHandlers(document_service_pb2_grpc.DocumentServiceServicer):
    """Documents of the caller's tenant, and those of the global library."""

    def __init__(self, ingest: Ingest, store: DocumentStore, admission: Admission) -> None:
        self._ingest = ingest
        self._store = store
        self._admission = admission

    async def UploadDocument(
        self, request_iterator: wire.UploadStream, _context: Context
    ) -> documents_pb2.UploadDocumentResponse:
        description, scope, pieces = await wire.upload_of(request_iterator)
        result = await self._ingest.upload(writing_tenant(current_caller(), scope), description, pieces)
        return wire.upload_response(result)

    async def GetDocument(self, request: documents_pb2.GetDocumentRequest, _context: Context) -> documents_pb2.Document:
        document = await self._store.get(reading_tenant(current_caller()), request.document_id)
        return wire.document_message(document)

    async def ListDocuments(
        self, request: documents_pb2.ListDocumentsRequest, _context: Context
    ) -> documents_pb2.ListDocumentsResponse:
        size, (wanted, query) = page_size(request.page_size), wire.list_of(request)
        before = wire.list_position(page_position(request.page_token, query))
        tenant_id = tenant_read(current_caller(), scope_to_write(request.scope))
        documents = await self._store.list(tenant_id, before=before, limit=size + 1, wanted=wanted)
        more = page_token(query, {"before": documents[size - 1].document_id}) if documents[size:] else ""
        return wire.document_list(documents[:size], more)

    async def ListDocumentVersions(
        self, request: documents_pb2.ListDocumentVersionsRequest, _context: Context
    ) -> documents_pb2.ListDocumentVersionsResponse:
        size, query = page_size(request.page_size), {"list": "versions", "of": request.document_id}
        before = wire.version_position(page_position(request.page_token, query))
        tenant_id = reading_tenant(current_caller())
        versions = await self._store.versions(tenant_id, request.document_id, before=before, limit=size + 1)
        more = page_token(query, {"before": versions[size - 1].version}) if versions[size:] else ""
        return wire.version_list(versions[:size], more)

    async def UpdateDocument(
        self, request: documents_pb2.UpdateDocumentRequest, _context: Context
    ) -> documents_pb2.Document:
        changes = wire.changes_of(request)
        document = await self._store.update(home_of_writes(current_caller()), request.document_id, changes)
        return wire.document_message(document)

    async def DeleteDocument(self, request: documents_pb2.DeleteDocumentRequest, _context: Context) -> Empty:
        await self._ingest.delete(home_of_writes(current_caller()), request.document_id)
        return Empty()

    async def CheckDuplicate(
        self, request: documents_pb2.CheckDuplicateRequest, _context: Context
    ) -> documents_pb2.CheckDuplicateResponse:
        tenant_id = tenant_read(current_caller(), scope_to_write(request.scope))
        return wire.check_response(await self._admission.check(tenant_id, wire.known_of(request)))

    async def WatchIngestion(
        self, request: documents_pb2.WatchIngestionRequest, _context: Context
    ) -> AsyncIterator[documents_pb2.IngestionProgress]:
        async for progress in self._ingest.watch(reading_tenant(current_caller()), request.document_id):
            yield wire.progress_message(progress)

    async def RetryIngestion(
        self, request: documents_pb2.RetryIngestionRequest, _context: Context
    ) -> documents_pb2.Document:
        document = await self._store.retry(home_of_writes(current_caller()), request.document_id)
        return wire.document_message(document)

    async def DiagnoseDocument(
        self, request: documents_pb2.DiagnoseDocumentRequest, _context: Context
    ) -> documents_pb2.Diagnosis:
        diagnosis = await self._ingest.diagnose(reading_tenant(current_caller()), request.document_id)
        return wire.diagnosis_message(diagnosis)

    async def DownloadOriginal(
        self, request: documents_pb2.DownloadOriginalRequest, _context: Context
    ) -> AsyncIterator[documents_pb2.DownloadOriginalResponse]:
        document, pieces = await self._ingest.download(reading_tenant(current_caller()), request.document_id)
        async for message in wire.download_messages(document, pieces):
            yield message
