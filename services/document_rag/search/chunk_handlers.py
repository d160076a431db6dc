"""ChunkService: one RPC, one intent."""

from typing import Any

import grpc

from prosa.document_rag.v1 import chunk_service_pb2 as pb
from prosa.document_rag.v1 import chunk_service_pb2_grpc
from services.document_rag.scope_wire import conditions_of
from services.document_rag.scopes import home_of_writes, reading_tenant
from services.document_rag.search import chunk_wire as wire
from services.document_rag.search.chunk_push import ChunkPush
from services.document_rag.search.chunk_store import ChunkStore
from shared.caller import current_caller
from shared.interceptors import messages_stand_alone
from shared.paging import page_position, page_size, page_token

Context = grpc.aio.ServicerContext[Any, Any]


class ChunkHandlers(chunk_service_pb2_grpc.ChunkServiceServicer):
    """Chunks that programs push into collections of the caller's tenant; the global library's are read by all."""

    def __init__(self, push: ChunkPush, store: ChunkStore) -> None:
        self._push = push
        self._store = store

    @messages_stand_alone
    async def UpsertChunks(self, request_iterator: wire.UpsertStream, _context: Context) -> pb.UpsertChunksResponse:
        collection_id, batches = await wire.upsert_of(request_iterator)
        tenant_id = home_of_writes(current_caller())
        return wire.upsert_response(await self._push.upsert(tenant_id, collection_id, batches))

    async def GetChunks(self, request: pb.GetChunksRequest, _context: Context) -> pb.GetChunksResponse:
        tenant_id = reading_tenant(current_caller())
        collection = await self._store.collection(tenant_id, request.collection_id)
        chunks = await self._store.get(tenant_id, collection, request.chunk_ids, with_vectors=request.include_vectors)
        return pb.GetChunksResponse(chunks=map(wire.chunk_message, chunks))

    async def ListChunks(self, request: pb.ListChunksRequest, _context: Context) -> pb.ListChunksResponse:
        tenant_id, size = reading_tenant(current_caller()), page_size(request.page_size)
        query = {"list": "chunks", "collection": request.collection_id}
        after = wire.list_position(page_position(request.page_token, query))
        collection = await self._store.collection(tenant_id, request.collection_id)
        chunks = await self._store.list(tenant_id, collection, after=after, limit=size + 1)
        more = page_token(query, {"after": chunks[size - 1].number}) if chunks[size:] else ""
        return pb.ListChunksResponse(chunks=map(wire.chunk_message, chunks[:size]), next_page_token=more)

    async def CountChunks(self, request: pb.CountChunksRequest, _context: Context) -> pb.CountChunksResponse:
        tenant_id = reading_tenant(current_caller())
        collection = await self._store.collection(tenant_id, request.collection_id)
        conditions = conditions_of(request.metadata_filter)
        return wire.count_response(await self._store.progress(tenant_id, collection, conditions))

    async def DeleteChunks(self, request: pb.DeleteChunksRequest, _context: Context) -> pb.DeleteChunksResponse:
        conditions = conditions_of(wire.checked_deletion(request).metadata_filter)
        deleted = await self._push.delete(
            home_of_writes(current_caller()), request.collection_id, request.chunk_ids, conditions
        )
        return pb.DeleteChunksResponse(deleted_count=deleted)

    async def QueryChunks(self, request: pb.QueryChunksRequest, _context: Context) -> pb.QueryChunksResponse:
        tenant_id = reading_tenant(current_caller())
        collection = await self._push.known(tenant_id, request.collection_id)
        vector = wire.query_vector(request, collection.dimensions)
        if vector is None:
            vector = await self._push.embedded_query(collection, request.text)
        top_k, conditions = wire.top_k_of(request), conditions_of(request.metadata_filter)
        found = await self._store.nearest(
            tenant_id, collection, vector, top_k, conditions=conditions, candidates=request.candidates
        )
        return wire.query_response(found)
