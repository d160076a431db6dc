"""Between the contract of the reports and their model: questions in, answers out."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from prosa.analytics.v1 import report_service_pb2 as pb
from prosa.common.v1 import usage_pb2
from services.analytics.model import HOUR
from services.analytics.reports.activity import Activity, ActivityReport
from services.analytics.reports.calendar import Grain
from services.analytics.reports.model import LATEST, Dimension, Question, Report, Row
from services.analytics.reports.sums import Spread, Sums
from services.analytics.reports.topics import Topic, TopicsReport
from services.analytics.rollups import names
from services.analytics.rollups.series import FIRST_TOKEN, LATENCY, SESSION_SECONDS, SESSION_TURNS
from services.analytics.wire import moment_of

# Each report has a request and a response of its own; those that say the same say it in the same fields.
Request: TypeAlias = Any
Response: TypeAlias = Any

_DIMENSIONS = {
    pb.DIMENSION_MODEL: Dimension.MODEL,
    pb.DIMENSION_USER: Dimension.USER,
    pb.DIMENSION_ASSISTANT: Dimension.ASSISTANT,
    pb.DIMENSION_TEAM: Dimension.TEAM,
    pb.DIMENSION_CHANNEL: Dimension.CHANNEL,
}
_GRAINS = {
    pb.GRAIN_UNSPECIFIED: Grain.DAY,
    pb.GRAIN_DAY: Grain.DAY,
    pb.GRAIN_HOUR: Grain.HOUR,
    pb.GRAIN_MONTH: Grain.MONTH,
}


def asked_moment(request: Request, field: str) -> datetime | None:
    """The moment in an optional field of a request; one that the model refuses when it is outside of the calendar."""
    try:
        return moment_of(getattr(request, field)) if request.HasField(field) else None
    except ValueError:
        return LATEST + HOUR


def question_of(request: Request, tenant_id: str, now: datetime) -> Question:
    """The question asked, defaults filled in; InvalidArgument when it makes no sense."""
    return Question.of(
        tenant_id,
        now=now,
        start=asked_moment(request, "start_time"),
        end=asked_moment(request, "end_time"),
        grain=_GRAINS[request.grain],
        group_by=[_DIMENSIONS[dimension] for dimension in getattr(request, "group_by", ())],
        time_zone=request.time_zone,
        compare=getattr(request, "compare", False),
    )


def usage_out(report: Report) -> pb.GetUsageReportResponse:
    """The usage report as the contract has it."""
    response = pb.GetUsageReportResponse(rows=_split_rows(report, usage_row))
    tell_all(response, report, usage_row)
    return response


def performance_out(report: Report) -> pb.GetPerformanceReportResponse:
    """The performance report as the contract has it."""
    response = pb.GetPerformanceReportResponse(rows=_split_rows(report, _performance_row))
    tell_all(response, report, _performance_row)
    return response


def errors_out(report: Report) -> pb.GetErrorsReportResponse:
    """The errors report as the contract has it."""
    rows = [_error_row(row, report.steps.get(row.start, row.sums)) for row in report.rows]
    response = pb.GetErrorsReportResponse(rows=rows)
    tell_all(response, report, _all_errors)
    return response


def sentiment_out(report: Report) -> pb.GetSentimentReportResponse:
    """The report of sentiment and feedback as the contract has it."""
    response = pb.GetSentimentReportResponse(rows=_split_rows(report, _sentiment_row))
    tell_all(response, report, _sentiment_row)
    return response


def sessions_out(report: Report) -> pb.GetSessionsReportResponse:
    """The report of sessions as the contract has it."""
    response = pb.GetSessionsReportResponse(rows=_split_rows(report, _session_row))
    tell_all(response, report, _session_row)
    return response


def tell_all(response: Response, report: Report, row: Callable[[Sums], Response]) -> None:
    """What every report says besides its rows."""
    response.total.CopyFrom(row(report.total))
    response.documents_examined = report.documents_examined
    tell(response.counted_until_time, report.counted_until)
    if report.previous is not None:
        response.previous_total.CopyFrom(row(report.previous))
        _tell_period(response.previous_period, report.question.before())


def tell(timestamp: Timestamp, moment: datetime | None) -> None:
    """Sets the timestamp when there is a moment."""
    if moment is not None:
        timestamp.FromDatetime(moment)


def _split_rows(report: Report, shown: Callable[[Sums], Response]) -> Iterable[Response]:
    for row in report.rows:
        if not any(row.sums.counts.values()):
            continue
        message = shown(row.sums)
        message.start_time.FromDatetime(row.start)
        for dimension, value in zip(report.question.group_by, row.split, strict=True):
            setattr(message, dimension.value, value)
        yield message


def tokens(sums: Sums) -> usage_pb2.TokenUsage:
    """The token components."""
    return usage_pb2.TokenUsage(
        input_tokens=sums["input_tokens"],
        cached_input_tokens=sums["cached_input_tokens"],
        output_tokens=sums["output_tokens"],
        reasoning_tokens=sums["reasoning_tokens"],
    )


def usage_row(sums: Sums) -> pb.UsageRow:
    """Turns, tokens and cost."""
    return pb.UsageRow(
        turns=sums["turns"],
        rag_turns=sums["rag_turns"],
        errors=sums["errors"],
        user_messages=sums["user_messages"],
        usage=tokens(sums),
        cost_micros=sums["cost_micros"],
    )


def latency(sums: Sums) -> pb.Distribution:
    """How long whole answers took."""
    return distribution(sums.spread(LATENCY, count="timed_turns", total="latency_ms"))


def first_token(sums: Sums) -> pb.Distribution:
    """How long first tokens took."""
    return distribution(sums.spread(FIRST_TOKEN, count="streamed_turns", total="time_to_first_token_ms"))


def distribution(spread: Spread, factor: float = 1.0) -> pb.Distribution:
    """A spread, its values in another unit."""
    return pb.Distribution(
        count=spread.measured,
        mean=spread.mean * factor,
        p50=spread.p50 * factor,
        p95=spread.p95 * factor,
        p99=spread.p99 * factor,
    )


def _performance_row(sums: Sums) -> pb.PerformanceRow:
    return pb.PerformanceRow(
        turns=sums["turns"],
        latency_ms=latency(sums),
        time_to_first_token_ms=first_token(sums),
        tokens_per_second=share(sums["timed_output_tokens"] * 1000, sums["latency_ms"]),
    )


def _error_row(row: Row, step: Sums) -> pb.ErrorRow:
    errors = row.sums["errors"]
    message = pb.ErrorRow(error_reason=row.split[0], errors=errors, share=share(errors, step["turns"] + step["errors"]))
    message.start_time.FromDatetime(row.start)
    return message


def _all_errors(sums: Sums) -> pb.ErrorRow:
    return pb.ErrorRow(errors=sums["errors"], share=share(sums["errors"], sums["turns"] + sums["errors"]))


def _sentiment_row(sums: Sums) -> pb.SentimentRow:
    ratings = [sums[name] for name in names.RATING]
    return pb.SentimentRow(
        analyses=sums[names.ANALYSES],
        positive=sums[names.SENTIMENT_POSITIVE],
        negative=sums[names.SENTIMENT_NEGATIVE],
        neutral=sums[names.SENTIMENT_NEUTRAL],
        resolved=sums[names.RESOLVED],
        unresolved=sums[names.UNRESOLVED],
        average_satisfaction=share(sums[names.SATISFACTION], sums[names.SATISFACTION_KNOWN]),
        feedback=sums[names.RATINGS],
        average_rating=share(sum(rating * count for rating, count in enumerate(ratings, 1)), sum(ratings)),
        ratings=ratings,
        generated_feedback=sums[names.GENERATED_RATINGS],
    )


def _session_row(sums: Sums) -> pb.SessionRow:
    turns = sums.spread(SESSION_TURNS, count=names.SESSIONS_WITH_TURNS, total=names.SESSION_TURNS_SUM)
    seconds = sums.spread(SESSION_SECONDS, count=names.SESSIONS_WITH_LENGTH, total=names.SESSION_SECONDS_SUM)
    return pb.SessionRow(
        sessions=sums[names.SESSIONS], turns=distribution(turns), duration_ms=distribution(seconds, 1000.0)
    )


def share(part: float, whole: float) -> float:
    """The part in the whole; 0 of nothing."""
    return part / whole if whole else 0.0


def activity_out(report: ActivityReport) -> pb.GetUserActivityReportResponse:
    """The report of users as the contract has it."""
    response = pb.GetUserActivityReportResponse(documents_examined=report.documents_examined)
    for each in report.rows:
        row = _activity_row(each)
        row.start_time.FromDatetime(each.start)
        response.rows.append(row)
    response.total.CopyFrom(_activity_row(report.total))
    tell(response.counted_until_time, report.counted_until)
    if report.previous is not None:
        response.previous_total.CopyFrom(_activity_row(report.previous))
        _tell_period(response.previous_period, report.question.before())
    return response


def _activity_row(activity: Activity) -> pb.UserActivityRow:
    return pb.UserActivityRow(
        active_users=activity.active,
        new_users=activity.new,
        returning_users=activity.returning(),
        retained_users=activity.retained,
        retention=share(activity.retained, activity.active_before),
    )


def _tell_period(period: pb.Period, question: Question) -> None:
    period.start_time.FromDatetime(question.start)
    period.end_time.FromDatetime(question.end)


def topics_out(report: TopicsReport) -> pb.GetTopicsReportResponse:
    """The report of topics as the contract has it."""
    response = pb.GetTopicsReportResponse(
        topics=[_topic_row(each, report.analyses) for each in report.topics],
        analyses=report.analyses,
        hidden_conversations=report.analyses - sum(each.conversations for each in report.topics),
        k_anonymity=report.k_anonymity,
        documents_examined=report.documents_examined,
    )
    for each in report.rows:
        row = _topic_row(each, report.steps.get(each.start, 0))
        row.start_time.FromDatetime(each.start)
        response.rows.append(row)
    if report.question.compare:
        _tell_period(response.previous_period, report.question.before())
    return response


def _topic_row(topic: Topic, analyses: int) -> pb.TopicRow:
    return pb.TopicRow(
        topic=topic.name,
        conversations=topic.conversations,
        share=share(topic.conversations, analyses),
        previous_conversations=topic.previous,
    )
