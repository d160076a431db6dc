"""SearchService: one RPC, one intent."""

from typing import Any

import grpc

from prosa.document_rag.v1 import search_service_pb2 as pb
from prosa.document_rag.v1 import search_service_pb2_grpc
from services.document_rag.documents.collection_store import CollectionStore
from services.document_rag.scopes import reading_tenant
from services.document_rag.search import wire
from services.document_rag.search.chunk_index import ChunkIndex
from shared.caller import current_caller

Context = grpc.aio.ServicerContext[Any, Any]


class SearchHandlers(search_service_pb2_grpc.SearchServiceServicer):
    """Search over the documents of the caller's tenant and of the global library."""

    def __init__(self, index: ChunkIndex, collections: CollectionStore) -> None:
        self._index = index
        self._collections = collections

    async def Search(self, request: pb.SearchRequest, _context: Context) -> pb.SearchResponse:
        tenant_id = reading_tenant(current_caller())
        await self._collections.require(tenant_id, request.collection_ids)
        result = await self._index.search(tenant_id, request.query, **wire.search_of(request))
        return wire.search_response(result)
