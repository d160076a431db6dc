"""CollectionService: one RPC, one intent."""

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from prosa.document_rag.v1 import collection_service_pb2 as pb
from prosa.document_rag.v1 import collection_service_pb2_grpc
from services.document_rag.documents import collection_wire as wire
from services.document_rag.documents.collection_deletion import delete_with_documents
from services.document_rag.documents.collection_store import CollectionStore
from services.document_rag.documents.ingest import Ingest
from services.document_rag.scope_wire import scope_to_read, scope_to_write
from services.document_rag.scopes import home_of_writes, reading_tenant, writing_tenant
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token

Context = grpc.aio.ServicerContext[Any, Any]


class CollectionHandlers(collection_service_pb2_grpc.CollectionServiceServicer):
    """Collections of the caller's tenant and of the global library."""

    def __init__(self, store: CollectionStore, ingest: Ingest) -> None:
        self._store = store
        self._ingest = ingest

    async def CreateCollection(self, request: pb.CreateCollectionRequest, _context: Context) -> pb.Collection:
        fields = wire.fields_of(request)
        tenant_id = writing_tenant(current_caller(), scope_to_write(request.collection.scope))
        return wire.collection_message(await self._store.create(tenant_id, fields, request.request_id))

    async def GetCollection(self, request: pb.GetCollectionRequest, _context: Context) -> pb.Collection:
        collection = await self._store.get(reading_tenant(current_caller()), request.collection_id)
        return wire.collection_message(collection)

    async def ListCollections(
        self, request: pb.ListCollectionsRequest, _context: Context
    ) -> pb.ListCollectionsResponse:
        size, query = page_size(request.page_size), {"list": "collections", "scope": request.scope}
        after = wire.list_position(page_position(request.page_token, query))
        tenant_id, scope = reading_tenant(current_caller()), scope_to_read(request.scope)
        found = await self._store.list(tenant_id, scope=scope, after=after, limit=size + 1)
        more = page_token(query, wire.position_of(found[size - 1])) if found[size:] else ""
        return wire.collection_list(found[:size], more)

    async def UpdateCollection(self, request: pb.UpdateCollectionRequest, _context: Context) -> pb.Collection:
        changes = wire.changes_of(request)
        tenant_id = home_of_writes(current_caller())
        return wire.collection_message(await self._store.update(tenant_id, request.collection_id, changes))

    async def DeleteCollection(self, request: pb.DeleteCollectionRequest, _context: Context) -> Empty:
        tenant_id = home_of_writes(current_caller())
        if request.delete_documents:
            await delete_with_documents(self._store, self._ingest, tenant_id, request.collection_id)
        else:
            await self._store.delete(tenant_id, request.collection_id)
        return Empty()
