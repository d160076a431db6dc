"""Searches and passages between protobuf and the model."""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from google.protobuf.struct_pb2 import Struct

from prosa.document_rag.v1 import search_service_pb2 as pb
from services.document_rag.model import DEFAULT_TOP_K, Filter, Passage, RetrievalMode, SearchMode, SearchResult
from services.document_rag.scope_wire import conditions_of, scope_to_proto, scope_to_read
from services.document_rag.search.embedders import Vectors

_MODES = {
    pb.SEARCH_MODE_UNSPECIFIED: SearchMode.HYBRID,
    pb.SEARCH_MODE_VECTOR: SearchMode.VECTOR,
    pb.SEARCH_MODE_KEYWORD: SearchMode.KEYWORD,
    pb.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
}
RETRIEVAL_MODES = {
    RetrievalMode.NONE: pb.RETRIEVAL_MODE_UNSPECIFIED,
    RetrievalMode.EXACT: pb.RETRIEVAL_MODE_EXACT,
    RetrievalMode.INDEX: pb.RETRIEVAL_MODE_INDEX,
    RetrievalMode.EXACT_FALLBACK: pb.RETRIEVAL_MODE_EXACT_FALLBACK,
}


class Wanted(TypedDict):
    """How to search, and for what."""

    top_k: int
    mode: SearchMode
    filter: Filter
    vector: Vectors | None
    rerank: bool | None


def search_of(request: pb.SearchRequest) -> Wanted:
    """The search asked for, the unspecified filled in; InvalidArgument for conditions that make no sense."""
    return Wanted(
        top_k=request.top_k or DEFAULT_TOP_K,
        mode=_MODES[request.mode],
        filter=_filter_of(request),
        vector=np.array(request.vector, dtype=np.float32) if request.vector else None,
        rerank={pb.RERANKING_ON: True, pb.RERANKING_OFF: False}.get(request.reranking),
    )


def _filter_of(request: pb.SearchRequest) -> Filter:
    return Filter(
        document_ids=tuple(request.document_ids),
        collection_ids=tuple(request.collection_ids),
        conditions=conditions_of(request.metadata_filter),
        languages=tuple(request.languages),
        scope=scope_to_read(request.scope),
    )


def search_response(result: SearchResult) -> pb.SearchResponse:
    """What a search found."""
    return pb.SearchResponse(
        passages=map(passage_message, result.passages),
        retrieval_mode=RETRIEVAL_MODES[result.retrieval_mode],
        reranker=result.reranker,
    )


def passage_message(passage: Passage) -> pb.Passage:
    """A passage as clients see it."""
    return pb.Passage(
        chunk_id=passage.chunk_id,
        document_id=passage.document_id,
        document_version=passage.version,
        title=passage.title,
        section=passage.section,
        page=passage.page,
        char_start=passage.char_start,
        char_end=passage.char_end,
        text=passage.text,
        score=passage.score,
        collection_id=passage.collection_id,
        scope=scope_to_proto(passage.scope),
        language=passage.language,
        metadata=_struct(passage.metadata),
    )


def _struct(metadata: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(metadata)
    return struct
