"""The conversation as a turn needs it, kept by chat_store."""

from dataclasses import dataclass

import grpc

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1.conversation_service_pb2_grpc import ConversationServiceStub
from services.document_rag.assistants.kept_answer import message_of, outcome_of
from services.document_rag.assistants.model import Question, Utterance
from services.document_rag.assistants.outcome import Outcome, Stored, StoredAnswer
from services.document_rag.assistants.turns import Turn
from services.document_rag.assistants.wording import COULD_NOT_ANSWER, language_of
from shared.errors import NotFound, ServiceError
from shared.identifiers import derived_id
from shared.neighbours import CALL_TIMEOUT_SECONDS, answers_of

_TITLE_CHARACTERS = 80
_PAGE_MESSAGES = 100


@dataclass(frozen=True, slots=True)
class Earlier:
    """A message that was there before."""

    seq: int
    utterance: Utterance


class Conversations:
    """chat_store, asked on behalf of the current caller. Every write is safe to repeat."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ConversationServiceStub(channel)

    async def add_question(self, turn: Turn, question: Question) -> Stored:
        """Stores what the person typed, in a new conversation if need be; NotFound for a missing conversation."""
        if turn.is_new_conversation or question.begins_conversation:
            await self._create(turn, question)
        message = pb.Message(
            message_id=question_id(turn),
            type=pb.MESSAGE_TYPE_USER,
            text=question.text,
            assistant_id=question.assistant_id,
        )
        return await self._append(turn, message, turn.key("question"))

    async def add_answer(self, turn: Turn, question: Question, outcome: Outcome) -> Stored:
        """Stores the answer with its tokens, cost, references, and the reservation that pays for it.

        RequestIdReused when another attempt of the turn has stored its own.
        """
        message = message_of(outcome, answer_id(turn), question.team_id)
        return await self._append(turn, message, turn.key("answer"))

    async def add_failure(self, turn: Turn, question: Question, error: ServiceError) -> None:
        """Stores that this attempt failed and why, in words for the person and a reason for programs."""
        message = pb.Message(
            type=pb.MESSAGE_TYPE_ERROR,
            text=COULD_NOT_ANSWER[language_of(question.text)],
            assistant_id=question.assistant_id,
            team_id=question.team_id,
            status=pb.MESSAGE_STATUS_ERROR,
            error_reason=error.reason,
        )
        await self._append(turn, message, turn.key(f"failure-{turn.attempt}"))

    async def before_question(self, turn: Turn, messages: int, before_seq: int = 0) -> list[Earlier]:
        """The last messages of people and assistants, oldest first, without this turn's own question.

        `before_seq` is where the question stands, 0 while it is the newest. Of a very long message the beginning will
        do: the prompt has no room for more.
        """
        request = pb.ListMessagesRequest(
            conversation_id=turn.conversation_id,
            order=pb.MESSAGE_ORDER_NEWEST_FIRST,
            before_seq=before_seq,
            page_size=messages,
        )
        with answers_of("chat_store"):
            response = await self._stub.ListMessages(request, timeout=CALL_TIMEOUT_SECONDS)
        own = question_id(turn)
        return [
            Earlier(each.seq, Utterance(by_user=each.type == pb.MESSAGE_TYPE_USER, text=each.text))
            for each in reversed(response.messages)
            if each.type in (pb.MESSAGE_TYPE_USER, pb.MESSAGE_TYPE_ASSISTANT, pb.MESSAGE_TYPE_TEAM)
            and each.text
            and each.message_id != own
        ]

    async def answer_after(self, turn: Turn, question_seq: int) -> StoredAnswer | None:
        """The answer that any attempt of this turn stored, if one came that far; other turns may lie between."""
        request = pb.ListMessagesRequest(
            conversation_id=turn.conversation_id, after_seq=question_seq, page_size=_PAGE_MESSAGES
        )
        wanted = answer_id(turn)
        while True:
            with answers_of("chat_store"):
                response = await self._stub.ListMessages(request, timeout=CALL_TIMEOUT_SECONDS)
            for message in response.messages:
                if message.message_id == wanted:
                    return await self._stored_answer(turn, message)
            if not response.next_page_token:
                return None
            request.page_token = response.next_page_token

    async def answer_at(self, turn: Turn, seq: int) -> StoredAnswer:
        """The answer at that position; NotFound if the conversation is gone."""
        request = pb.ListMessagesRequest(conversation_id=turn.conversation_id, after_seq=seq - 1, page_size=1)
        with answers_of("chat_store"):
            response = await self._stub.ListMessages(request, timeout=CALL_TIMEOUT_SECONDS)
        if not response.messages:
            raise NotFound("message", answer_id(turn))
        return await self._stored_answer(turn, response.messages[0])

    async def _stored_answer(self, turn: Turn, message: pb.Message) -> StoredAnswer:
        """The whole of it: of a very long text, lists show only the beginning."""
        text = message.text
        if message.HasField("body"):
            request = pb.ReadMessageTextRequest(conversation_id=turn.conversation_id, message_id=message.message_id)
            with answers_of("chat_store"):
                chunks = self._stub.ReadMessageText(request, timeout=CALL_TIMEOUT_SECONDS)
                text = "".join([chunk.text async for chunk in chunks])
        return StoredAnswer(Stored(message.message_id, message.seq), outcome_of(message, text))

    async def _create(self, turn: Turn, question: Question) -> None:
        request = pb.CreateConversationRequest(
            conversation_id=turn.conversation_id,
            assistant_id=question.assistant_id,
            team_id=question.team_id,
            title=question.text.strip().split("\n", 1)[0][:_TITLE_CHARACTERS],
            channel=question.channel,
            # With an id of the client's own, whoever comes first begins the conversation.
            request_id="" if question.begins_conversation else turn.key("conversation"),
        )
        with answers_of("chat_store"):
            await self._stub.CreateConversation(request, timeout=CALL_TIMEOUT_SECONDS)

    async def _append(self, turn: Turn, message: pb.Message, request_id: str) -> Stored:
        request = pb.AppendMessagesRequest(
            conversation_id=turn.conversation_id, messages=[message], request_id=request_id
        )
        with answers_of("chat_store"):
            response = await self._stub.AppendMessages(request, timeout=CALL_TIMEOUT_SECONDS)
        return Stored(response.messages[0].message_id, response.messages[0].seq)


def question_id(turn: Turn) -> str:
    """The id of the turn's question, the same in every attempt."""
    return derived_id(turn.tenant_id, turn.conversation_id, turn.request_id, "question")


def answer_id(turn: Turn) -> str:
    """The id of the turn's answer, the same in every attempt."""
    return derived_id(turn.tenant_id, turn.conversation_id, turn.request_id, "answer")
