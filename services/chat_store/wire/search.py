"""Searches: proto ↔ model."""

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from services.chat_store.found import Result
from services.chat_store.limits import broken
from services.chat_store.model import MessageType
from services.chat_store.selection import HitPlace, Search, SearchOrder
from services.chat_store.wire.conversations import statuses_of
from services.chat_store.wire.messages import MESSAGE_TYPES, message_to_proto
from services.chat_store.wire.values import period_of
from services.chat_store.words import words_of

_ORDERS = {
    pb.SEARCH_ORDER_UNSPECIFIED: SearchOrder.RELEVANCE,
    pb.SEARCH_ORDER_RELEVANCE: SearchOrder.RELEVANCE,
    pb.SEARCH_ORDER_RECENCY: SearchOrder.RECENCY,
}


def search_of(request: pb.SearchMessagesRequest, after: HitPlace | None, limit: int) -> Search:
    """The messages asked for, from that place on; InvalidArgument for a query without a word."""
    words = words_of(request.query)
    if not words:
        raise broken("query", "must hold a word", "query.words")
    return Search(
        words=words,
        conversation_id=request.conversation_id,
        assistant_id=request.assistant_id,
        team_id=request.team_id,
        statuses=statuses_of(request.statuses),
        types=frozenset(MESSAGE_TYPES[each] for each in request.types) or frozenset(MessageType),
        created=period_of(request, "create_time"),
        order=_ORDERS[request.order],
        after=after,
        limit=limit,
    )


def result_to_proto(found: Result) -> pb.SearchResult:
    """A message found, as clients see it."""
    return pb.SearchResult(
        message=message_to_proto(found.hit.message),
        conversation_id=found.hit.conversation_id,
        score=found.hit.score,
        snippet=found.snippet.text,
        highlights=[pb.Highlight(begin=begin, end=end) for begin, end in found.snippet.highlights],
    )
