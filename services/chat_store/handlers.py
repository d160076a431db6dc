"""ConversationService: one RPC, one intent. Its messages' RPCs are in message_handlers.py."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from services.chat_store.acts import (
    Archive,
    ConversationAct,
    Delete,
    Finalize,
    LinkAnalysis,
    LinkMessageAnalysis,
    Unarchive,
    Undelete,
)
from services.chat_store.live import Live
from services.chat_store.message_handlers import MessageHandlers
from services.chat_store.pages import place_at, position_of, query_of, within_page
from services.chat_store.policies import Policies
from services.chat_store.reach import actor_of, listed_reach, reach_of
from services.chat_store.retention import Retention
from services.chat_store.store import ChatStore
from services.chat_store.wire.conversations import (
    changes_of,
    conversation_to_proto,
    new_conversation,
    selection_of,
    stats_to_proto,
)
from services.chat_store.wire.feed import update_to_proto
from shared.caller import current_caller
from shared.paging import page_position, page_size, page_token


class ConversationHandler(MessageHandlers):
    """ConversationService over any store."""

    def __init__(self, store: ChatStore, policies: Policies, retention: Retention, live: Live) -> None:
        super().__init__(store, retention)
        self._policies = policies
        self._live = live

    async def CreateConversation(self, request: pb.CreateConversationRequest, _: Any) -> pb.Conversation:
        reach, user_id = reach_of(current_caller()), current_caller().user_id
        policy = await self._policies.of(reach.tenant_id)
        new = new_conversation(request, reach.tenant_id, user_id, policy.ttl_seconds)
        return conversation_to_proto(await self._store.create(reach, new))

    async def GetConversation(self, request: pb.GetConversationRequest, _: Any) -> pb.Conversation:
        return conversation_to_proto(await self._store.get(reach_of(current_caller()), request.conversation_id))

    async def ListConversations(self, request: pb.ListConversationsRequest, _: Any) -> pb.ListConversationsResponse:
        reach = listed_reach(current_caller(), request.user_id)
        if reach is None:
            return pb.ListConversationsResponse()
        query = query_of(request, reach)
        after = place_at(page_position(request.page_token, query))
        found, more = await self._store.select(reach, selection_of(request, after, page_size(request.page_size)))
        listed, more = within_page([conversation_to_proto(each) for each in found], more=more)
        last = found[len(listed) - 1] if more else None
        token = page_token(query, position_of(last.last_activity_time, last.conversation_id)) if last else ""
        return pb.ListConversationsResponse(conversations=listed, next_page_token=token)

    async def UpdateConversation(self, request: pb.UpdateConversationRequest, _: Any) -> pb.Conversation:
        return await self._act(request.conversation_id, changes_of(request, actor_of(current_caller())))

    async def ArchiveConversation(self, request: pb.ArchiveConversationRequest, _: Any) -> pb.Conversation:
        act = Archive(actor=actor_of(current_caller()), request_id=request.request_id)
        return await self._act(request.conversation_id, act)

    async def UnarchiveConversation(self, request: pb.UnarchiveConversationRequest, _: Any) -> pb.Conversation:
        act = Unarchive(actor=actor_of(current_caller()), request_id=request.request_id)
        return await self._act(request.conversation_id, act)

    async def FinalizeConversation(self, request: pb.FinalizeConversationRequest, _: Any) -> pb.Conversation:
        act = Finalize(actor=actor_of(current_caller()), request_id=request.request_id, reason=request.reason)
        return await self._act(request.conversation_id, act)

    async def DeleteConversation(self, request: pb.DeleteConversationRequest, _: Any) -> pb.Conversation:
        days = (await self._policies.of(reach_of(current_caller()).tenant_id)).purge_after_days
        act = Delete(actor=actor_of(current_caller()), request_id=request.request_id, purge_after_days=days)
        return await self._act(request.conversation_id, act)

    async def UndeleteConversation(self, request: pb.UndeleteConversationRequest, _: Any) -> pb.Conversation:
        act = Undelete(actor=actor_of(current_caller()), request_id=request.request_id)
        return await self._act(request.conversation_id, act)

    async def GetStats(self, request: pb.GetStatsRequest, _: Any) -> pb.ConversationStats:
        return stats_to_proto(await self._store.get(reach_of(current_caller()), request.conversation_id))

    async def LinkAnalysis(self, request: pb.LinkAnalysisRequest, _: Any) -> pb.Conversation:
        reach, name = reach_of(current_caller()), request.conversation_id
        by, request_id, analysis_id = actor_of(current_caller()), request.request_id, request.analysis_id
        if not request.message_id:
            return await self._act(name, LinkAnalysis(actor=by, request_id=request_id, analysis_id=analysis_id))
        act = LinkMessageAnalysis(actor=by, request_id=request_id, analysis_id=analysis_id)
        await self._store.revise(reach, name, request.message_id, act)
        return conversation_to_proto(await self._store.get(reach, name))

    async def WatchConversation(
        self, request: pb.WatchConversationRequest, _: Any
    ) -> AsyncIterator[pb.ConversationUpdate]:
        follow = self._live.follow(reach_of(current_caller()), request.conversation_id, request.after_seq)
        async with aclosing(follow) as updates:
            async for update in updates:
                yield update_to_proto(update, request.conversation_id)

    async def _act(self, conversation_id: str, act: ConversationAct) -> pb.Conversation:
        return conversation_to_proto(await self._store.act(reach_of(current_caller()), conversation_id, act))
