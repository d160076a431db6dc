"""One RPC, one intent: who asks for what, and how the conversation with the client goes."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb
from prosa.chat_store.v1 import feed_service_pb2_grpc as feed_rpc
from services.chat_store import wire
from services.chat_store.model import Conversation, Place, Reach, Selection, Window
from services.chat_store.store import ChatStore
from shared.caller import ACT_AS, Caller, current_caller
from shared.errors import FieldViolation, InvalidArgument, PermissionDenied
from shared.paging import JSON, page_position, page_size, page_token

READ_ALL = "conversations.read_all"
# Year 9999, the end of what a date can hold.
LAST_MILLISECOND = 253_402_300_800_000


class ConversationHandler(rpc.ConversationServiceServicer):
    """ConversationService over any store."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    async def CreateConversation(self, request: pb.CreateConversationRequest, _: Any) -> pb.Conversation:
        reach = _reach(current_caller())
        new = wire.new_conversation(request, reach.tenant_id, current_caller().user_id)
        return wire.conversation(await self._store.create(reach, new))

    async def GetConversation(self, request: pb.GetConversationRequest, _: Any) -> pb.Conversation:
        return wire.conversation(await self._store.get(_reach(current_caller()), request.conversation_id))

    async def ListConversations(self, request: pb.ListConversationsRequest, _: Any) -> pb.ListConversationsResponse:
        reach = _listed(current_caller(), request.user_id)
        if reach is None:
            return pb.ListConversationsResponse()
        query = {"user": reach.user_id, "assistant": request.assistant_id}
        after = _place(page_position(request.page_token, query))
        selection = Selection(request.assistant_id, after, page_size(request.page_size))
        found, more = await self._store.select(reach, selection)
        return pb.ListConversationsResponse(
            conversations=map(wire.conversation, found),
            next_page_token=page_token(query, _position(found[-1])) if more else "",
        )

    async def AppendMessages(self, request: pb.AppendMessagesRequest, _: Any) -> pb.AppendMessagesResponse:
        caller = current_caller()
        batch = wire.batch(request, caller.user_id)
        stored = await self._store.append(_reach(caller), request.conversation_id, batch)
        return pb.AppendMessagesResponse(messages=wire.messages(stored))

    async def ListMessages(self, request: pb.ListMessagesRequest, _: Any) -> pb.ListMessagesResponse:
        asked = wire.window(request, page_size(request.page_size))
        query = _messages_query(request.conversation_id, asked)
        window = _continued(asked, page_position(request.page_token, query))
        page = await self._store.read(_reach(current_caller()), request.conversation_id, window)
        return pb.ListMessagesResponse(
            messages=wire.messages(page.messages),
            next_page_token=page_token(query, {"s": page.messages[-1].seq}) if page.more else "",
        )


class FeedHandler(feed_rpc.FeedServiceServicer):
    """FeedService over any store."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    async def WatchEvents(self, request: feed_pb.WatchEventsRequest, _: Any) -> AsyncIterator[feed_pb.Event]:
        async with aclosing(self._store.watch(current_caller().tenant_id, request.resume_token)) as events:
            async for happened in events:
                yield wire.event(happened)


def _reach(caller: Caller) -> Reach:
    """A service that acts for somebody has that person's reach: its own scopes must not lend a member more."""
    if not caller.tenant_id:
        raise PermissionDenied("the caller belongs to no tenant, and conversations do")
    everyone = caller.may(READ_ALL) and not caller.may(ACT_AS)
    return Reach(caller.tenant_id, None if everyone else caller.user_id)


def _listed(caller: Caller, user_id: str) -> Reach | None:
    """Whose conversations to list; None when there are none to list: the anonymous know theirs by id."""
    reach = _reach(caller)
    if reach.user_id is None:
        return Reach(reach.tenant_id, user_id or None)
    if user_id not in ("", reach.user_id):
        raise PermissionDenied("only your own conversations", metadata={"permission": READ_ALL})
    return reach if reach.user_id else None


def _position(last: Conversation) -> dict[str, JSON]:
    return {"t": round(last.last_activity_time.timestamp() * 1000), "c": last.conversation_id}


def _place(position: dict[str, Any] | None) -> Place | None:
    match position:
        case None:
            return None
        case {"t": int(at), "c": str(conversation_id)} if 0 <= at < LAST_MILLISECOND:
            return Place(datetime.fromtimestamp(at / 1000, UTC), conversation_id)
    raise _edited_token()


def _continued(asked: Window, position: dict[str, Any] | None) -> Window:
    match position:
        case None:
            return asked
        case {"s": int(seq)} if asked.holds(seq):
            return asked.beyond(seq)
    raise _edited_token()


def _messages_query(conversation_id: str, asked: Window) -> dict[str, object]:
    return {
        "conversation": conversation_id,
        "after": asked.after_seq,
        "before": asked.before_seq,
        "newest_first": asked.newest_first,
    }


def _edited_token() -> InvalidArgument:
    """As shared.paging refuses a token that it cannot read."""
    reason, description = "PAGE_TOKEN_INVALID", "page_token is not valid"
    violation = FieldViolation("page_token", description, reason)
    return InvalidArgument(description, reason=reason, violations=[violation])
