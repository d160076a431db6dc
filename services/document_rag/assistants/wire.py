"""Assistants and turns between the contracts and the model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from services.document_rag.assistants.answer import Accepted, AnswerEvent, Citation, Completed
from services.document_rag.assistants.model import Assistant, AssistantFields, FinishReason, OnDisconnect, Question
from services.document_rag.assistants.providers import Delta
from services.document_rag.assistants.usage_wire import tokens_to_proto, usage_source_to_proto
from services.document_rag.model import Passage, refuse_nul
from shared.errors import FieldViolation, InvalidArgument
from shared.identifiers import new_id

_FINISH_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.QUOTA: pb.FINISH_REASON_QUOTA,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
    FinishReason.INTERRUPTED: pb.FINISH_REASON_INTERRUPTED,
}
_CHANGEABLE = (
    "display_name",
    "instructions",
    "model",
    "top_k",
    "temperature",
    "max_output_tokens",
    "document_ids",
)


def assistant_to_proto(assistant: Assistant) -> pb.Assistant:
    """Assistant → contract."""
    return pb.Assistant(
        assistant_id=assistant.assistant_id,
        display_name=assistant.display_name,
        instructions=assistant.instructions,
        model=assistant.model,
        top_k=assistant.top_k,
        temperature=assistant.temperature,
        max_output_tokens=assistant.max_output_tokens,
        document_ids=assistant.document_ids,
        create_time=_timestamp(assistant.created_at.timestamp()),
        update_time=_timestamp(assistant.updated_at.timestamp()),
    )


def fields_from_proto(request: pb.CreateAssistantRequest) -> AssistantFields:
    """What the client sets of the new assistant."""
    refuse_nul({"request_id": request.request_id})
    return AssistantFields(**{name: _value(request.assistant, name) for name in _CHANGEABLE})


def changes_from_proto(request: pb.UpdateAssistantRequest) -> dict[str, object]:
    """The fields that the mask names, with their new values; InvalidArgument for a path that cannot be changed."""
    unknown = [path for path in request.update_mask.paths if path not in _CHANGEABLE]
    if unknown or not request.update_mask.paths:
        violations = [FieldViolation("update_mask", f"{path} cannot be changed", "field_mask") for path in unknown]
        raise InvalidArgument(f"update_mask names some of: {', '.join(_CHANGEABLE)}", violations=violations)
    return {path: _value(request.assistant, path) for path in request.update_mask.paths}


def newest_first_position(position: Mapping[str, Any] | None) -> tuple[datetime, str] | None:
    """Where a page of assistants begins; InvalidArgument for a position that no page of ours ends with."""
    if position is None:
        return None
    try:
        return datetime.fromisoformat(position["time"]).astimezone(UTC), str(UUID(position["id"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID") from None


def question_from_proto(request: pb.AskRequest) -> Question:
    """AskRequest → the turn as asked, with an id under which it may be retried."""
    finish = request.on_disconnect == pb.ON_DISCONNECT_FINISH
    return Question(
        assistant_id=request.assistant_id,
        conversation_id=request.conversation_id,
        text=request.question,
        on_disconnect=OnDisconnect.FINISH if finish else OnDisconnect.STOP,
        max_output_tokens=request.max_output_tokens,
        channel=request.channel,
        request_id=request.request_id or new_id(),
    )


def event_to_proto(event: AnswerEvent | Delta) -> pb.AskEvent:
    """A step of a turn → contract."""
    match event:
        case Accepted():
            accepted = pb.Accepted(
                conversation_id=event.conversation_id,
                user_message_id=event.question_message_id,
                request_id=event.request_id,
            )
            return pb.AskEvent(accepted=accepted)
        case Citation():
            return pb.AskEvent(citation=_citation_to_proto(event.number, event.passage))
        case Delta():
            return pb.AskEvent(text_delta=pb.TextDelta(text=event.text))
        case Completed():
            return pb.AskEvent(completed=_completed_to_proto(event))


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
    )


def _value(assistant: pb.Assistant, name: str) -> Any:
    if name == "temperature" and not assistant.HasField("temperature"):
        return None
    value = getattr(assistant, name)
    return tuple(value) if name == "document_ids" else value


def _timestamp(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1_000_000))
    return stamp
