"""Assistants and questions between the contracts and the model."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from prosa.document_rag.v1 import assistant_service_pb2 as pb
from prosa.document_rag.v1 import search_service_pb2
from services.document_rag.assistants.model import Assistant, AssistantFields, OnDisconnect, Question
from services.document_rag.model import SearchMode, refuse_nul
from shared.errors import FieldViolation, InvalidArgument
from shared.identifiers import new_id

_SEARCH_MODES = {
    SearchMode.HYBRID: search_service_pb2.SEARCH_MODE_HYBRID,
    SearchMode.VECTOR: search_service_pb2.SEARCH_MODE_VECTOR,
    SearchMode.KEYWORD: search_service_pb2.SEARCH_MODE_KEYWORD,
}
_SEARCH_MODES_BACK = {wire: mode for mode, wire in _SEARCH_MODES.items()}
_CHANGEABLE = (
    "display_name",
    "instructions",
    "model",
    "top_k",
    "temperature",
    "max_output_tokens",
    "document_ids",
    "collection_ids",
    "description",
    "keywords",
    "search_mode",
    "history_tokens",
    "verify_answers",
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
        collection_ids=assistant.collection_ids,
        description=assistant.description,
        keywords=assistant.keywords,
        search_mode=_SEARCH_MODES[assistant.search_mode],
        history_tokens=assistant.history_tokens,
        verify_answers=assistant.verify_answers,
        create_time=timestamp(assistant.created_at.timestamp()),
        update_time=timestamp(assistant.updated_at.timestamp()),
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
    return Question(
        assistant_id=request.assistant_id,
        conversation_id=request.conversation_id,
        text=request.question,
        on_disconnect=on_disconnect_of(request.on_disconnect),
        max_output_tokens=request.max_output_tokens,
        channel=request.channel,
        request_id=request.request_id or new_id(),
    )


def chat_from_proto(request: pb.ChatWithAgentRequest) -> Question:
    """ChatWithAgentRequest → the turn as asked; its answer is finished whoever waits for it."""
    return Question(
        assistant_id=request.agent_id,
        conversation_id=request.conversation_id,
        text=request.message,
        on_disconnect=OnDisconnect.FINISH,
        max_output_tokens=0,
        channel="",
        request_id=request.request_id or new_id(),
        begins_conversation=bool(request.conversation_id),
    )


def on_disconnect_of(policy: pb.OnDisconnect.ValueType) -> OnDisconnect:
    """The policy, STOP when it is not stated."""
    return OnDisconnect.FINISH if policy == pb.ON_DISCONNECT_FINISH else OnDisconnect.STOP


def _value(assistant: pb.Assistant, name: str) -> Any:
    value = getattr(assistant, name)
    match name:
        case "temperature" | "history_tokens":
            return value if assistant.HasField(name) else None
        case "verify_answers":
            return value if assistant.HasField(name) else True
        case "search_mode":
            return _SEARCH_MODES_BACK.get(value, SearchMode.HYBRID)
        case "document_ids" | "collection_ids" | "keywords":
            return tuple(value)
    return value


def timestamp(seconds: float) -> Timestamp:
    """Seconds of the epoch → Timestamp, to the microsecond."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1_000_000))
    return stamp
