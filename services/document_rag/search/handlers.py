"""SearchService: one RPC, one intent."""

from typing import Any

import grpc

from prosa.document_rag.v1 import search_service_pb2 as pb
from prosa.document_rag.v1 import search_service_pb2_grpc
from services.document_rag.search import wire
from services.document_rag.search.chunk_index import ChunkIndex
from shared.caller import current_caller

Context = grpc.aio.ServicerContext[Any, Any]


class SearchHandlers(search_service_pb2_grpc.SearchServiceServicer):
    """Search over the documents of the caller's tenant."""

    def __init__(self, index: ChunkIndex) -> None:
        self._index = index

    async def Search(self, request: pb.SearchRequest, _context: Context) -> pb.SearchResponse:
        mode, top_k = wire.search_of(request)
        result = await self._index.search(
            current_caller().tenant_id,
            request.query,
            top_k=top_k,
            mode=mode,
            document_ids=request.document_ids,
        )
        return wire.search_response(result)
