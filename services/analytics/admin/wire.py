"""Between the contract of AdminService and its model."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from prosa.analytics.v1 import admin_service_pb2 as pb
from services.analytics.admin.model import RebuildProgress, RebuildState, Receipt
from services.analytics.intake.dead_letters import DeadLetter
from services.analytics.intake.streams import Kind
from shared.paging import page_position, page_token

_STREAMS = {
    Kind.EXECUTION: pb.METRICS_STREAM_EXECUTION,
    Kind.CONTENT: pb.METRICS_STREAM_CONTENT,
    Kind.SESSION: pb.METRICS_STREAM_SESSION,
    Kind.CLASSIFICATION: pb.METRICS_STREAM_CLASSIFICATION,
}
_KINDS = {stream: kind for kind, stream in _STREAMS.items()}
_STATES = {
    RebuildState.READING_FEED: pb.REBUILD_STATE_READING_FEED,
    RebuildState.TAKING_OVER: pb.REBUILD_STATE_TAKING_OVER,
    RebuildState.DONE: pb.REBUILD_STATE_DONE,
}


def kind_of(stream: pb.MetricsStream.ValueType) -> Kind | None:
    """The kind of items in a stream; None for all of them."""
    return _KINDS.get(stream)


def behind(request: pb.ListDeadLettersRequest) -> tuple[datetime, str] | None:
    """Where the page begins: behind this letter, by its time and id."""
    position = page_position(request.page_token, _query(request))
    return (datetime.fromisoformat(str(position["time"])), str(position["id"])) if position else None


def letters_out(
    request: pb.ListDeadLettersRequest, letters: Sequence[DeadLetter], size: int
) -> pb.ListDeadLettersResponse:
    """The first `size` of them; one more than that tells that there is another page."""
    shown = letters[:size]
    response = pb.ListDeadLettersResponse(dead_letters=[_letter(each) for each in shown])
    if len(letters) > size:
        last = shown[-1]
        position = {"time": last.create_time.isoformat(), "id": last.letter_id}
        response.next_page_token = page_token(_query(request), position)
    return response


def _query(request: pb.ListDeadLettersRequest) -> Mapping[str, Any]:
    return {"letters": int(request.stream)}


def _letter(letter: DeadLetter) -> pb.DeadLetter:
    shown = pb.DeadLetter(
        dead_letter_id=letter.letter_id,
        stream=_STREAMS[letter.kind],
        event_id=letter.event_id.removeprefix(f"outside:{letter.tenant_id}:"),
        reason=letter.reason,
        deliveries=letter.deliveries,
        size_bytes=len(letter.item),
    )
    shown.create_time.FromDatetime(letter.create_time)
    return shown


def progress_out(progress: RebuildProgress) -> pb.RebuildProgress:
    """How far it is."""
    return pb.RebuildProgress(
        state=_STATES[progress.state],
        events_read=progress.events_read,
        facts_taken_over=progress.facts_taken_over,
        facts_lost=progress.facts_lost,
        generation=progress.generation,
    )


def receipt_out(receipt: Receipt) -> pb.ForgetUserResponse:
    """What was changed."""
    shown = pb.ForgetUserResponse(
        facts=receipt.facts,
        figures=receipt.figures,
        sessions=receipt.sessions,
        analyses=receipt.analyses,
        dead_letters=receipt.dead_letters,
    )
    shown.erase_time.FromDatetime(receipt.time)
    return shown
