"""Passages between protobuf and the model."""

from prosa.document_rag.v1 import search_service_pb2 as pb
from services.document_rag.model import DEFAULT_TOP_K, Passage, RetrievalMode, SearchMode, SearchResult

_MODES = {
    pb.SEARCH_MODE_UNSPECIFIED: SearchMode.HYBRID,
    pb.SEARCH_MODE_VECTOR: SearchMode.VECTOR,
    pb.SEARCH_MODE_KEYWORD: SearchMode.KEYWORD,
    pb.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
}
_RETRIEVAL_MODES = {
    RetrievalMode.NONE: pb.RETRIEVAL_MODE_UNSPECIFIED,
    RetrievalMode.EXACT: pb.RETRIEVAL_MODE_EXACT,
}


def search_of(request: pb.SearchRequest) -> tuple[SearchMode, int]:
    """How to search and how many passages to return, the unspecified filled in."""
    return _MODES[request.mode], request.top_k or DEFAULT_TOP_K


def search_response(result: SearchResult) -> pb.SearchResponse:
    """What a search found."""
    return pb.SearchResponse(
        passages=map(passage_message, result.passages), retrieval_mode=_RETRIEVAL_MODES[result.retrieval_mode]
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
    )
