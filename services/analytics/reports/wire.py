"""Between the contract of the reports and their model: questions in, answers out."""

from datetime import datetime
from typing import Literal

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.common.v1 import usage_pb2
from services.analytics.model import HOUR, Figures
from services.analytics.reports.model import LATEST, Dimension, Grain, UsageQuery, UsageReport, UsageRow
from services.analytics.wire import moment_of

_DIMENSIONS = {
    pb.DIMENSION_MODEL: Dimension.MODEL,
    pb.DIMENSION_USER: Dimension.USER,
    pb.DIMENSION_ASSISTANT: Dimension.ASSISTANT,
}


def _asked_moment(request: pb.GetUsageReportRequest, field: Literal["start_time", "end_time"]) -> datetime | None:
    try:
        return moment_of(getattr(request, field)) if request.HasField(field) else None
    except ValueError:
        return LATEST + HOUR  # the model refuses it, naming the field


def query_of(request: pb.GetUsageReportRequest, tenant_id: str, now: datetime) -> UsageQuery:
    """The question asked, defaults filled in; InvalidArgument when it makes no sense."""
    return UsageQuery.of(
        tenant_id,
        start=_asked_moment(request, "start_time"),
        end=_asked_moment(request, "end_time"),
        grain=Grain.HOUR if request.grain == pb.GRAIN_HOUR else Grain.DAY,
        group_by=[_DIMENSIONS[dimension] for dimension in request.group_by],
        time_zone=request.time_zone,
        now=now,
    )


def report_out(report: UsageReport) -> pb.GetUsageReportResponse:
    """The answer as the contract has it."""
    response = pb.GetUsageReportResponse(
        rows=[_row(row, report.group_by) for row in report.rows],
        total=_figures(report.total),
        documents_examined=report.documents_examined,
    )
    if report.counted_until:
        response.counted_until_time.FromDatetime(report.counted_until)
    return response


def _row(row: UsageRow, group_by: tuple[Dimension, ...]) -> pb.UsageRow:
    shown = _figures(row.figures)
    shown.start_time.FromDatetime(row.start)
    for dimension, value in zip(group_by, row.split, strict=True):
        setattr(shown, dimension.value, value)
    return shown


def _figures(figures: Figures) -> pb.UsageRow:
    return pb.UsageRow(
        turns=figures.turns,
        rag_turns=figures.rag_turns,
        errors=figures.errors,
        user_messages=figures.user_messages,
        usage=usage_pb2.TokenUsage(
            input_tokens=figures.input_tokens,
            cached_input_tokens=figures.cached_input_tokens,
            output_tokens=figures.output_tokens,
            reasoning_tokens=figures.reasoning_tokens,
        ),
        cost_micros=figures.cost_micros,
    )
