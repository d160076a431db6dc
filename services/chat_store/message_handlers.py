"""The RPCs of ConversationService that are about messages."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from services.chat_store.acts import ClearFeedback, MessageAct, SetFeedback
from services.chat_store.found import results_of
from services.chat_store.pages import (
    hit_place_at,
    hit_position,
    query_of,
    revision_at,
    window_at,
    within_page,
)
from services.chat_store.reach import actor_of, reach_of, searched_reach
from services.chat_store.retention import Retention
from services.chat_store.store import ChatStore
from services.chat_store.text_chunks import text_chunks
from services.chat_store.wire.messages import (
    batch_of,
    edit_of,
    feedback_of,
    framed,
    message_to_proto,
    messages_to_proto,
    window_of,
)
from services.chat_store.wire.search import result_to_proto, search_of
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token

MOST_RESULTS = 100
USUAL_RESULTS = 20


class MessageHandlers(rpc.ConversationServiceServicer):
    """What ConversationService does with messages, over any store."""

    def __init__(self, store: ChatStore, retention: Retention) -> None:
        self._store = store
        self._retention = retention

    async def AppendMessages(self, request: pb.AppendMessagesRequest, _: Any) -> pb.AppendMessagesResponse:
        reach, name = reach_of(current_caller()), request.conversation_id
        stored = await self._store.append(reach, name, batch_of(request, current_caller().user_id))
        self._retention.appended(reach.tenant_id, name, stored[0].seq, stored[-1].seq)
        return pb.AppendMessagesResponse.FromString(framed(stored))

    async def ListMessages(self, request: pb.ListMessagesRequest, _: Any) -> pb.ListMessagesResponse:
        reach = reach_of(current_caller())
        query = query_of(request, reach)
        asked = window_of(request, page_size(request.page_size))
        window = window_at(asked, page_position(request.page_token, query))
        page = await self._store.read(reach, request.conversation_id, window)
        response = pb.ListMessagesResponse.FromString(framed(page.messages))
        if page.more:
            response.next_page_token = page_token(query, {"s": page.messages[-1].seq})
        return response

    async def GetMessage(self, request: pb.GetMessageRequest, _: Any) -> pb.Message:
        reach = reach_of(current_caller())
        return message_to_proto(await self._store.message(reach, request.conversation_id, request.message_id))

    async def UpdateMessage(self, request: pb.UpdateMessageRequest, _: Any) -> pb.Message:
        edit = edit_of(request, actor_of(current_caller()))
        return await self._revise(request.conversation_id, request.message_id, edit)

    async def ListMessageRevisions(
        self, request: pb.ListMessageRevisionsRequest, _: Any
    ) -> pb.ListMessageRevisionsResponse:
        reach, size = reach_of(current_caller()), page_size(request.page_size)
        query = query_of(request, reach)
        after = revision_at(page_position(request.page_token, query))
        name, message_id = request.conversation_id, request.message_id
        found, more = await self._store.revisions(reach, name, message_id, after, size)
        listed, more = within_page(messages_to_proto(found), more=more)
        token = page_token(query, {"v": listed[-1].revision}) if more else ""
        return pb.ListMessageRevisionsResponse(revisions=listed, next_page_token=token)

    async def ReadMessageText(self, request: pb.ReadMessageTextRequest, _: Any) -> AsyncIterator[pb.TextChunk]:
        pieces = self._store.text(reach_of(current_caller()), request.conversation_id, request.message_id)
        async with aclosing(text_chunks(pieces)) as chunks:
            async for offset_bytes, text in chunks:
                yield pb.TextChunk(text=text, offset_bytes=offset_bytes)

    async def SearchMessages(self, request: pb.SearchMessagesRequest, _: Any) -> pb.SearchMessagesResponse:
        reach = searched_reach(current_caller(), request.user_id, request.conversation_id)
        size = page_size(request.page_size, default=USUAL_RESULTS, maximum=MOST_RESULTS)
        if reach is None:
            return pb.SearchMessagesResponse()
        query = query_of(request, reach)
        search = search_of(request, hit_place_at(page_position(request.page_token, query)), size)
        found = await self._store.search(reach, search)
        results = await results_of(self._store, reach, found, search.words)
        sent, more = within_page([result_to_proto(each) for each in results], more=found.more)
        token = page_token(query, hit_position(results[len(sent) - 1].hit.place)) if more else ""
        return pb.SearchMessagesResponse(results=sent, next_page_token=token, partial_ranking=found.partial)

    async def SetFeedback(self, request: pb.SetFeedbackRequest, _: Any) -> pb.Message:
        caller = current_caller()
        feedback = feedback_of(request.feedback, caller.user_id)
        act = SetFeedback(actor=actor_of(caller), request_id=request.request_id, feedback=feedback)
        return await self._revise(request.conversation_id, request.message_id, act)

    async def ClearFeedback(self, request: pb.ClearFeedbackRequest, _: Any) -> pb.Message:
        act = ClearFeedback(actor=actor_of(current_caller()), request_id=request.request_id)
        return await self._revise(request.conversation_id, request.message_id, act)

    async def _revise(self, conversation_id: str, message_id: str, act: MessageAct) -> pb.Message:
        reach = reach_of(current_caller())
        return message_to_proto(await self._store.revise(reach, conversation_id, message_id, act))
