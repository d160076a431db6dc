"""Conversations as an analysis needs them, kept by chat_store. Every write is safe to repeat."""

from datetime import UTC

import grpc

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1.conversation_service_pb2_grpc import ConversationServiceStub
from services.analytics.analyses.model import Analysis, Sentiment, Transcript, Utterance
from services.analytics.analyses.neighbours import Tenants
from shared.errors import FailedPrecondition, NotFound
from shared.neighbours import CALL_TIMEOUT_SECONDS, answers_of

# What opens and what closes a conversation says what it was about and how it went; a very long middle is left out.
FIRST_MESSAGES = 20
LAST_MESSAGES = 80
_SENTIMENTS = {
    Sentiment.POSITIVE: pb.SENTIMENT_POSITIVE,
    Sentiment.NEUTRAL: pb.SENTIMENT_NEUTRAL,
    Sentiment.NEGATIVE: pb.SENTIMENT_NEGATIVE,
}


class Conversations:
    """chat_store, asked in the name of a conversation's tenant."""

    def __init__(self, channel: grpc.aio.Channel, tenants: Tenants) -> None:
        self._stub = ConversationServiceStub(channel)
        self._tenants = tenants

    async def transcript(self, tenant_id: str, conversation_id: str) -> Transcript:
        """What was said, the oldest first; NotFound for a missing conversation."""
        metadata = await self._tenants.credentials(tenant_id)
        with answers_of("chat_store"):
            told = await self._stub.GetConversation(
                pb.GetConversationRequest(conversation_id=conversation_id),
                metadata=metadata,
                timeout=CALL_TIMEOUT_SECONDS,
            )
            newest = await self._page(conversation_id, pb.MESSAGE_ORDER_NEWEST_FIRST, LAST_MESSAGES, metadata)
            oldest = await self._page(conversation_id, pb.MESSAGE_ORDER_OLDEST_FIRST, FIRST_MESSAGES, metadata)
        messages = {message.seq: message for message in (*oldest, *newest)}
        return Transcript(
            tenant_id=tenant_id,
            conversation_id=conversation_id,
            utterances=[_utterance(messages[seq]) for seq in sorted(messages)],
            user_id=told.user_id,
            assistant_id=told.assistant_id,
            team_id=told.team_id,
            channel=told.channel,
            finalized=told.HasField("finalize_time"),
        )

    async def _page(
        self, conversation_id: str, order: pb.MessageOrder.ValueType, size: int, metadata: tuple[tuple[str, str], ...]
    ) -> list[pb.Message]:
        request = pb.ListMessagesRequest(conversation_id=conversation_id, order=order, page_size=size)
        response = await self._stub.ListMessages(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)
        return list(response.messages)

    async def link(self, analysis: Analysis) -> None:
        """Links the analysis to its conversation, unless that is gone or has all the links it may have."""
        request = pb.LinkAnalysisRequest(
            conversation_id=analysis.conversation_id, analysis_id=analysis.analysis_id, request_id=analysis.analysis_id
        )
        metadata = await self._tenants.credentials(analysis.tenant_id)
        try:
            with answers_of("chat_store"):
                await self._stub.LinkAnalysis(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)
        except (NotFound, FailedPrecondition):
            return

    async def leave_feedback(self, analysis: Analysis) -> None:
        """Leaves the analysis' feedback on the answer, marked as generated; a person's is never touched."""
        metadata = await self._tenants.credentials(analysis.tenant_id)
        place = {"conversation_id": analysis.conversation_id, "message_id": analysis.feedback_on}
        try:
            with answers_of("chat_store"):
                message = await self._stub.GetMessage(
                    pb.GetMessageRequest(**place), metadata=metadata, timeout=CALL_TIMEOUT_SECONDS
                )
                if message.HasField("feedback") and not message.feedback.auto_generated:
                    return
                request = pb.SetFeedbackRequest(
                    **place, feedback=_feedback(analysis), request_id=f"feedback-{analysis.analysis_id}"
                )
                await self._stub.SetFeedback(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)
        except (NotFound, FailedPrecondition):
            return


def _utterance(message: pb.Message) -> Utterance:
    by_user = message.type == pb.MESSAGE_TYPE_USER
    spoken = by_user or message.type in (pb.MESSAGE_TYPE_ASSISTANT, pb.MESSAGE_TYPE_TEAM)
    return Utterance(
        message_id=message.message_id,
        seq=message.seq,
        by_user=by_user,
        text=message.text if spoken and message.status != pb.MESSAGE_STATUS_ERROR else "",
        time=message.create_time.ToDatetime(UTC),
        rating=message.feedback.rating if message.HasField("feedback") else 0,
        generated_rating=message.feedback.auto_generated,
    )


def _feedback(analysis: Analysis) -> pb.Feedback:
    findings = analysis.findings
    return pb.Feedback(
        rating=findings.satisfaction,
        category=findings.issue_category or findings.category.value,
        sentiment=_SENTIMENTS[findings.sentiment],
        auto_generated=True,
    )
