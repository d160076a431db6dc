"""Between the contract and the model of what is no plain report: facts, prices, live figures, files."""

from collections.abc import Mapping
from datetime import UTC, datetime

from google.api import httpbody_pb2

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.common.v1 import usage_pb2
from services.analytics.model import Fact, MessageFact
from services.analytics.reports.csv_file import MEDIA_TYPE, csv_file
from services.analytics.reports.fact_list import FactPage, FactQuery, Place
from services.analytics.reports.live import LiveReport
from services.analytics.reports.model import Dimension, Question, period, wrong
from services.analytics.reports.repricing import Repriced, RepricingReport
from services.analytics.reports.wire import (
    Request,
    Response,
    asked_moment,
    first_token,
    latency,
    tell,
    tokens,
    usage_row,
)
from shared.errors import InvalidArgument
from shared.paging import page_position, page_token

_FACT_FILTERS = ("model", "user_id", "assistant_id", "team_id", "channel", "conversation_id", "errors_only")
_SAME_NAMES = (
    "message_id",
    "seq",
    "user_id",
    "assistant_id",
    "team_id",
    "model",
    "rag",
    "usage_source",
    "cost_micros",
    "latency_ms",
    "time_to_first_token_ms",
    "finish_reason",
    "error_reason",
)

_EXPORTED = {
    pb.REPORT_KIND_USAGE: pb.GetUsageReportRequest,
    pb.REPORT_KIND_PERFORMANCE: pb.GetPerformanceReportRequest,
    pb.REPORT_KIND_TOPICS: pb.GetTopicsReportRequest,
    pb.REPORT_KIND_SENTIMENT: pb.GetSentimentReportRequest,
    pb.REPORT_KIND_USER_ACTIVITY: pb.GetUserActivityReportRequest,
    pb.REPORT_KIND_SESSIONS: pb.GetSessionsReportRequest,
    pb.REPORT_KIND_ERRORS: pb.GetErrorsReportRequest,
    pb.REPORT_KIND_REPRICING: pb.GetRepricingReportRequest,
}


def fact_query(request: pb.ListFactsRequest, tenant_id: str, now: datetime) -> tuple[FactQuery, Place | None]:
    """Which facts, and behind which one to go on; InvalidArgument when that makes no sense.

    Where no end is asked for, the first page decides on it: the later ones mean the same hours.
    """
    position = page_position(request.page_token, _bound(request))
    decided = now if position is None else _moment(position, "until")
    start, end = period(asked_moment(request, "start_time"), asked_moment(request, "end_time"), decided)
    query = FactQuery(tenant_id, start, end, **{name: getattr(request, name) for name in _FACT_FILTERS})
    place = None if position is None else Place(_moment(position, "time"), str(position.get("event_id", "")))
    return query, place


def facts_out(page: FactPage, request: pb.ListFactsRequest, query: FactQuery) -> pb.ListFactsResponse:
    """A page of facts as the contract has it."""
    token = ""
    if page.place is not None:
        position = {
            "time": page.place.time.isoformat(),
            "event_id": page.place.event_id,
            "until": query.end.isoformat(),
        }
        token = page_token(_bound(request), position)
    return pb.ListFactsResponse(
        facts=[_fact(fact, message) for fact, message in page.found],
        next_page_token=token,
        documents_examined=page.documents_examined,
    )


def _bound(request: pb.ListFactsRequest) -> dict[str, object]:
    times = {name: str(getattr(request, name)) for name in ("start_time", "end_time")}
    return {**times, **{name: getattr(request, name) for name in _FACT_FILTERS}}


def _moment(position: Mapping[str, object], name: str) -> datetime:
    try:
        return datetime.fromisoformat(str(position.get(name))).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID") from None


def _fact(fact: Fact, message: MessageFact) -> pb.Fact:
    shown = pb.Fact(
        event_id=fact.event_id,
        conversation_id=fact.conversation_id,
        channel=fact.channel,
        speaker=message.speaker.value,
        ending=message.ending.value,
        usage=usage_pb2.TokenUsage(
            input_tokens=message.input_tokens,
            cached_input_tokens=message.cached_input_tokens,
            output_tokens=message.output_tokens,
            reasoning_tokens=message.reasoning_tokens,
        ),
        **{name: getattr(message, name) for name in _SAME_NAMES},
    )
    shown.create_time.FromDatetime(message.create_time)
    return shown


def repricing_out(report: RepricingReport) -> pb.GetRepricingReportResponse:
    """The repricing report as the contract has it."""
    response = pb.GetRepricingReportResponse(
        total=_repriced(report.total),
        documents_examined=report.documents_examined,
        prices_examined=report.prices_examined,
    )
    for each in report.rows:
        row = _repriced(each)
        row.start_time.FromDatetime(each.start)
        response.rows.append(row)
    tell(response.counted_until_time, report.counted_until)
    return response


def _repriced(repriced: Repriced) -> pb.RepricingRow:
    recorded, corrected = repriced.sums["cost_micros"], repriced.corrected_micros()
    return pb.RepricingRow(
        model=repriced.model,
        turns=repriced.sums["turns"] + repriced.sums["errors"],
        usage=tokens(repriced.sums),
        recorded_cost_micros=recorded,
        corrected_cost_micros=corrected,
        difference_micros=corrected - recorded,
        unpriced_tokens=repriced.unpriced_tokens,
    )


def live_out(report: LiveReport) -> pb.WatchReportResponse:
    """Live figures as the contract has them."""
    shown = pb.LiveReport(
        today=usage_row(report.today),
        hour=usage_row(report.hour),
        latency_ms=latency(report.hour),
        time_to_first_token_ms=first_token(report.hour),
        active_users=report.today.users_counted(),
        documents_examined=report.documents_examined,
    )
    tell(shown.counted_until_time, report.counted_until)
    return pb.WatchReportResponse(report=shown)


def file_out(response: Response, question: Question, language: pb.Language.ValueType) -> httpbody_pb2.HttpBody:
    """The rows of a report's response as a file; of topics those by step."""
    rows = response.DESCRIPTOR.fields_by_name["rows"].message_type
    split = question.group_by or ((Dimension.MODEL,) if isinstance(response, pb.GetRepricingReportResponse) else ())
    content = csv_file(
        response.rows,
        rows,
        grain=question.grain,
        group_by=split,
        zone=question.zone,
        portuguese=language != pb.LANGUAGE_ENGLISH,
    )
    return httpbody_pb2.HttpBody(content_type=MEDIA_TYPE, data=content)


def exported(request: pb.ExportReportRequest) -> Request:
    """The request of the report that is exported; InvalidArgument for a split that it does not have."""
    asked = _EXPORTED[request.report](grain=request.grain, time_zone=request.time_zone)
    for name in ("start_time", "end_time"):
        if request.HasField(name):
            getattr(asked, name).CopyFrom(getattr(request, name))
    if request.group_by:
        if "group_by" not in asked.DESCRIPTOR.fields_by_name:
            raise wrong("group_by", "this report is not split")
        asked.group_by.extend(request.group_by)
    return asked
