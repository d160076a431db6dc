"""An answer as chat_store keeps it: outcome ↔ message, with what has no field of its own in the metadata."""

import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.json_format import MessageToDict

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from services.document_rag.assistants.model import Answer, FinishReason, TokenCount, UsageSource
from services.document_rag.assistants.outcome import Outcome
from services.document_rag.assistants.steps import Step, StepKind, StepRole, StepState
from services.document_rag.assistants.usage_wire import (
    tokens_from_proto,
    tokens_to_proto,
    usage_source_from_proto,
    usage_source_to_proto,
)
from services.document_rag.assistants.verifier import Support, Verified
from services.document_rag.model import Passage

_RESERVATION = "reservation_id"
_NOT_IN_DOCUMENTS = "not_in_documents"
_VERIFICATION = "verification"
_STEPS = "steps"
# A message's metadata holds 64 KiB of JSON: 300 sentences take a third of it, twelve steps with so much text the rest.
_STEP_TEXT_BYTES = 1500
_MOST_REFERENCES = 100  # of a message
_MOST_QUOTED_BYTES = 16_384  # of a reference; a pushed chunk may be longer


def message_of(outcome: Outcome, message_id: str, team_id: str) -> pb.Message:
    """The message that keeps an outcome: the team's if there is one, else the assistant's."""
    answer = outcome.answer
    interrupted = answer.finish_reason in (FinishReason.INTERRUPTED, FinishReason.QUOTA)
    message = pb.Message(
        message_id=message_id,
        type=pb.MESSAGE_TYPE_TEAM if team_id else pb.MESSAGE_TYPE_ASSISTANT,
        text=answer.text,
        assistant_id=outcome.assistant_id,
        team_id=team_id,
        status=pb.MESSAGE_STATUS_INTERRUPTED if interrupted else pb.MESSAGE_STATUS_COMPLETE,
        rag=outcome.rag,
        references=[_reference_to_proto(number, passage) for number, passage in outcome.references[:_MOST_REFERENCES]],
        usage=tokens_to_proto(answer.tokens),
        usage_source=usage_source_to_proto(answer.usage_source),
        cost_micros=answer.cost_micros,
        model=answer.model,
        latency_ms=answer.latency_ms,
        time_to_first_token_ms=answer.time_to_first_token_ms,
        finish_reason=answer.finish_reason.value,
    )
    message.metadata.update(_metadata(outcome))
    return message


def outcome_of(message: pb.Message, text: str) -> Outcome:
    """The outcome that a message keeps; `text` is the whole of it, where the message shows the beginning."""
    metadata = MessageToDict(message.metadata)
    return Outcome(
        answer=Answer(
            text=text,
            finish_reason=FinishReason(message.finish_reason),
            tokens=tokens_from_proto(message.usage),
            usage_source=usage_source_from_proto(message.usage_source),
            cost_micros=message.cost_micros,
            model=message.model,
            latency_ms=message.latency_ms,
            time_to_first_token_ms=message.time_to_first_token_ms,
            not_in_documents=bool(metadata.get(_NOT_IN_DOCUMENTS)),
        ),
        assistant_id=message.assistant_id,
        reservation_id=str(metadata.get(_RESERVATION, "")),
        references=tuple((each.number, _passage_of(each)) for each in message.references),
        rag=message.rag,
        verification=tuple(_verified_of(each) for each in metadata.get(_VERIFICATION, ())),
        steps=tuple(_step_of(each) for each in metadata.get(_STEPS, ())),
    )


def _metadata(outcome: Outcome) -> dict[str, Any]:
    metadata: dict[str, Any] = {_RESERVATION: outcome.reservation_id}
    if outcome.answer.not_in_documents:
        metadata[_NOT_IN_DOCUMENTS] = True
    if outcome.verification:
        metadata[_VERIFICATION] = [_kept_verified(each) for each in outcome.verification]
    if outcome.steps:
        metadata[_STEPS] = [_kept_step(each) for each in outcome.steps]
    return metadata


def _kept_verified(verified: Verified) -> dict[str, Any]:
    return {
        "start": verified.start,
        "end": verified.end,
        "support": verified.support.value,
        "citations": list(verified.citations),
    }


def _verified_of(kept: dict[str, Any]) -> Verified:
    return Verified(int(kept["start"]), int(kept["end"]), Support(kept["support"]), _whole(kept["citations"]))


def _kept_step(step: Step) -> dict[str, Any]:
    tokens = step.tokens
    return {
        "number": step.number,
        "role": step.role.value,
        "kind": step.kind.value,
        "state": step.state.value,
        "assistant_id": step.assistant_id,
        "display_name": step.display_name,
        "text": _beginning(step.text, _STEP_TEXT_BYTES),
        "model": step.model,
        "tokens": [tokens.input, tokens.cached_input, tokens.output, tokens.reasoning],
        "usage_source": step.usage_source.value,
        "cost_micros": step.cost_micros,
        "latency_ms": step.latency_ms,
        "error_reason": step.error_reason,
        "reservation_id": step.reservation_id,
    }


def _beginning(text: str, most_bytes: int) -> str:
    """As much of the text as fits into so many bytes of JSON, however its letters are written there."""
    kept = text[:most_bytes]
    while len(json.dumps(kept)) > most_bytes:
        kept = kept[: len(kept) * 4 // 5]
    return kept


def _step_of(kept: dict[str, Any]) -> Step:
    texts = ("assistant_id", "display_name", "text", "model", "error_reason", "reservation_id")
    return Step(
        number=int(kept["number"]),
        role=StepRole(kept["role"]),
        kind=StepKind(kept["kind"]),
        state=StepState(kept["state"]),
        tokens=TokenCount(*_whole(kept["tokens"])),
        usage_source=UsageSource(kept["usage_source"]),
        cost_micros=int(kept["cost_micros"]),
        latency_ms=int(kept["latency_ms"]),
        **{name: str(kept[name]) for name in texts},
    )


def _whole(numbers: Iterable[float]) -> tuple[int, ...]:
    """JSON has no integers of its own."""
    return tuple(int(number) for number in numbers)


def _reference_to_proto(number: int, passage: Passage) -> pb.Reference:
    return pb.Reference(
        number=number,
        document_id=passage.document_id,
        document_version=passage.version,
        title=passage.title,
        chunk_id=passage.chunk_id,
        page=passage.page,
        char_start=passage.char_start,
        char_end=passage.char_end,
        quote=passage.text.encode()[:_MOST_QUOTED_BYTES].decode(errors="ignore"),
        score=passage.score,
    )


def _passage_of(reference: pb.Reference) -> Passage:
    return Passage(
        chunk_id=reference.chunk_id,
        document_id=reference.document_id,
        title=reference.title,
        version=reference.document_version,
        page=reference.page,
        section="",
        char_start=reference.char_start,
        char_end=reference.char_end,
        text=reference.quote,
        score=reference.score,
    )
