"""Between the contract of agreement and its model."""

from collections.abc import Sequence
from datetime import UTC, datetime

from prosa.analytics.v1 import agreement_service_pb2 as pb
from services.analytics.agreement.model import Amounts, Drift, DriftKind, Findings, Line
from shared.errors import InvalidArgument
from shared.paging import page_position, page_token

_KINDS = {
    DriftKind.ROLLUPS: pb.DRIFT_KIND_ROLLUPS,
    DriftKind.MESSAGES: pb.DRIFT_KIND_MESSAGES,
    DriftKind.LEDGER: pb.DRIFT_KIND_LEDGER,
}


def findings_out(findings: Findings) -> pb.CheckAgreementResponse:
    """What a check has found, as the contract has it."""
    response = pb.CheckAgreementResponse(
        lines=[_line(model, line) for model, line in sorted(findings.lines.items())],
        drifts=[drift_out(drift) for drift in findings.drifts],
        documents_examined=findings.documents_examined,
    )
    if findings.counted_until is not None:
        response.counted_until_time.FromDatetime(findings.counted_until)
    return response


def drift_out(drift: Drift) -> pb.Drift:
    """A drift as the contract has it."""
    shown = pb.Drift(
        drift_id=drift.drift_id,
        kind=_KINDS[drift.kind],
        model=drift.model,
        day=drift.day.isoformat() if drift.day else "",
        difference=_amounts(drift.difference),
    )
    for field, moment in (
        (shown.find_time, drift.find_time),
        (shown.check_time, drift.check_time),
        (shown.settle_time, drift.settle_time),
    ):
        if moment is not None:
            field.FromDatetime(moment)
    return shown


def place_of(request: pb.ListDriftRequest) -> tuple[datetime, str] | None:
    """Behind which drift to go on; None for the first page."""
    position = page_position(request.page_token, _bound(request))
    if position is None:
        return None
    try:
        return datetime.fromisoformat(str(position.get("time"))).astimezone(UTC), str(position.get("drift_id", ""))
    except (ValueError, OverflowError):
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID") from None


def page_out(drifts: Sequence[Drift], size: int, request: pb.ListDriftRequest) -> pb.ListDriftResponse:
    """A page of drifts, of which one more than the page holds may have been read."""
    shown = drifts[:size]
    response = pb.ListDriftResponse(drifts=[drift_out(drift) for drift in shown])
    if len(drifts) > size and shown[-1].find_time is not None:
        position = {"time": shown[-1].find_time.isoformat(), "drift_id": shown[-1].drift_id}
        response.next_page_token = page_token(_bound(request), position)
    return response


def _bound(request: pb.ListDriftRequest) -> dict[str, object]:
    return {"include_settled": request.include_settled}


def _line(model: str, line: Line) -> pb.AgreementLine:
    return pb.AgreementLine(
        model=model,
        ledger=_amounts(line.ledger),
        facts=_amounts(line.facts),
        rollups=_amounts(line.rollups),
        messages=_amounts(line.messages),
        forgotten=_amounts(line.forgotten),
    )


def _amounts(amounts: Amounts) -> pb.AgreementFigures:
    return pb.AgreementFigures(**amounts._asdict())
