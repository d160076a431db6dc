"""The events of a turn → the contracts: one by one for those who read a stream, gathered for those who wait."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from prosa.common.v1 import usage_pb2
from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import team_service_pb2
from services.document_rag.assistants.events import Accepted, AnswerEvent, Citation, Completed, Verification
from services.document_rag.assistants.model import FinishReason
from services.document_rag.assistants.providers import Delta
from services.document_rag.assistants.steps import Step, StepKind, StepRole, StepState
from services.document_rag.assistants.usage_wire import tokens_to_proto, usage_source_to_proto
from services.document_rag.assistants.verifier import Support
from services.document_rag.model import Passage

_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.QUOTA: pb.FINISH_REASON_QUOTA,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
    FinishReason.INTERRUPTED: pb.FINISH_REASON_INTERRUPTED,
}
_SUPPORT = {
    Support.SUPPORTED: pb.SENTENCE_SUPPORT_SUPPORTED,
    Support.PARTLY: pb.SENTENCE_SUPPORT_PARTLY,
    Support.UNSUPPORTED: pb.SENTENCE_SUPPORT_UNSUPPORTED,
}
_ROLES = {StepRole.LEADER: pb.STEP_ROLE_LEADER, StepRole.MEMBER: pb.STEP_ROLE_MEMBER}
_KINDS = {
    StepKind.ROUTE: pb.STEP_KIND_ROUTE,
    StepKind.PLAN: pb.STEP_KIND_PLAN,
    StepKind.ANSWER: pb.STEP_KIND_ANSWER,
    StepKind.COMPOSE: pb.STEP_KIND_COMPOSE,
}
_STATES = {
    StepState.STARTED: pb.STEP_STATE_STARTED,
    StepState.FINISHED: pb.STEP_STATE_FINISHED,
    StepState.FAILED: pb.STEP_STATE_FAILED,
}
_MICROS = 1_000_000


def event_to_proto(event: AnswerEvent | Delta) -> pb.AskEvent:
    """An event of a turn → contract."""
    match event:
        case Accepted():
            accepted = pb.Accepted(
                conversation_id=event.conversation_id,
                user_message_id=event.question_message_id,
                request_id=event.request_id,
            )
            return pb.AskEvent(accepted=accepted)
        case Step():
            return pb.AskEvent(step=_step_to_proto(event))
        case Citation():
            return pb.AskEvent(citation=_citation_to_proto(event.number, event.passage))
        case Delta():
            return pb.AskEvent(text_delta=pb.TextDelta(text=event.text))
        case Verification():
            return pb.AskEvent(verification=_verification_to_proto(event))
        case Completed():
            return pb.AskEvent(completed=_completed_to_proto(event))


@dataclass(slots=True)
class Gathered:
    """A turn as one who waits for its end is told it."""

    accepted: pb.Accepted = field(default_factory=pb.Accepted)
    completed: pb.Completed = field(default_factory=pb.Completed)
    text: str = ""
    citations: list[pb.Citation] = field(default_factory=list)
    steps: list[pb.Step] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens charged."""
        usage = self.completed.usage
        return usage.input_tokens + usage.cached_input_tokens + usage.output_tokens + usage.reasoning_tokens

    def hear(self, event: pb.AskEvent) -> None:
        """Takes the next event."""
        match event.WhichOneof("event"):
            case "accepted":
                self.accepted = event.accepted
            case "citation":
                self.citations.append(event.citation)
            case "text_delta":
                self.text += event.text_delta.text
            case "step" if event.step.state != pb.STEP_STATE_STARTED:
                self.steps.append(event.step)
            case "completed":
                self.completed = event.completed


async def gathered(events: AsyncIterator[AnswerEvent | Delta]) -> Gathered:
    """All events of a turn, when it has ended."""
    whole = Gathered()
    async for event in events:
        whole.hear(event_to_proto(event))
    return whole


def chat_response(agent_id: str, whole: Gathered) -> pb.ChatWithAgentResponse:
    """A turn of an assistant in the names of the programs that wait for it."""
    completed = whole.completed
    return pb.ChatWithAgentResponse(
        conversation_id=whole.accepted.conversation_id,
        message_id=completed.message_id,
        agent_id=agent_id,
        response=whole.text,
        model_used=completed.model,
        execution_time=completed.latency_ms / 1000,
        tokens_used=whole.tokens,
        cost=completed.cost_micros / _MICROS,
        citations=whole.citations,
        not_in_documents=completed.not_in_documents,
    )


def task_response(team_id: str, whole: Gathered) -> team_service_pb2.ExecuteTeamTaskResponse:
    """A turn of a team in the names of the programs that wait for it."""
    completed = whole.completed
    return team_service_pb2.ExecuteTeamTaskResponse(
        session_id=whole.accepted.conversation_id,
        message_id=completed.message_id,
        team_id=team_id,
        response=whole.text,
        model_used=completed.model,
        execution_time=completed.latency_ms / 1000,
        tokens_used=whole.tokens,
        cost=completed.cost_micros / _MICROS,
        citations=whole.citations,
        steps=sorted(whole.steps, key=lambda step: step.number),
        not_in_documents=completed.not_in_documents,
    )


def _citation_to_proto(number: int, passage: Passage) -> pb.Citation:
    return pb.Citation(
        number=number,
        document_id=passage.document_id,
        document_version=passage.version,
        title=passage.title,
        chunk_id=passage.chunk_id,
        page=passage.page,
        char_start=passage.char_start,
        char_end=passage.char_end,
        quote=passage.text,
        score=passage.score,
    )


def _completed_to_proto(completed: Completed) -> pb.Completed:
    answer = completed.answer
    return pb.Completed(
        message_id=completed.stored.message_id,
        seq=completed.stored.seq,
        finish_reason=_FINISH_REASONS[answer.finish_reason],
        usage=tokens_to_proto(answer.tokens),
        usage_source=usage_source_to_proto(answer.usage_source),
        cost_micros=answer.cost_micros,
        model=answer.model,
        latency_ms=answer.latency_ms,
        time_to_first_token_ms=answer.time_to_first_token_ms,
        not_in_documents=answer.not_in_documents,
    )


def _step_to_proto(step: Step) -> pb.Step:
    ended = step.state is not StepState.STARTED
    return pb.Step(
        number=step.number,
        role=_ROLES[step.role],
        assistant_id=step.assistant_id,
        display_name=step.display_name,
        kind=_KINDS[step.kind],
        state=_STATES[step.state],
        text=step.text,
        model=step.model,
        usage=tokens_to_proto(step.tokens) if ended else None,
        usage_source=usage_source_to_proto(step.usage_source) if ended else usage_pb2.USAGE_SOURCE_UNSPECIFIED,
        cost_micros=step.cost_micros,
        latency_ms=step.latency_ms,
        error_reason=step.error_reason,
    )


def _verification_to_proto(verification: Verification) -> pb.Verification:
    sentences = [
        pb.SentenceVerification(
            char_start=each.start, char_end=each.end, support=_SUPPORT[each.support], citation_numbers=each.citations
        )
        for each in verification.sentences
    ]
    return pb.Verification(sentences=sentences)
