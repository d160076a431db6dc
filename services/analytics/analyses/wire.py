"""Between the contract of AnalysisService and the model."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.analytics.v1 import analysis_service_pb2 as pb
from services.analytics.analyses.analysis_store import Page, Place, Wanted
from services.analytics.analyses.budget import tokens_of
from services.analytics.analyses.model import (
    CORRECTABLE,
    Analysis,
    Category,
    MessageContent,
    Resolution,
    Sentiment,
    Settings,
    Stage,
    TopicSums,
    Trigger,
)
from services.analytics.wire import moment_of
from shared.errors import FieldViolation, InvalidArgument
from shared.paging import JSON, page_position, page_token

TRIGGERS = {
    Trigger.FINALIZED: pb.ANALYSIS_TRIGGER_FINALIZED,
    Trigger.IDLE: pb.ANALYSIS_TRIGGER_IDLE,
    Trigger.REQUESTED: pb.ANALYSIS_TRIGGER_REQUESTED,
    Trigger.CORRECTED: pb.ANALYSIS_TRIGGER_CORRECTED,
}
CATEGORIES = {
    Category.INFORMATION: pb.ANALYSIS_CATEGORY_INFORMATION,
    Category.REQUEST: pb.ANALYSIS_CATEGORY_REQUEST,
    Category.COMPLAINT: pb.ANALYSIS_CATEGORY_COMPLAINT,
    Category.REPORT: pb.ANALYSIS_CATEGORY_REPORT,
    Category.SUGGESTION: pb.ANALYSIS_CATEGORY_SUGGESTION,
    Category.PRAISE: pb.ANALYSIS_CATEGORY_PRAISE,
    Category.OTHER: pb.ANALYSIS_CATEGORY_OTHER,
}
SENTIMENTS = {
    Sentiment.POSITIVE: pb.ANALYSIS_SENTIMENT_POSITIVE,
    Sentiment.NEUTRAL: pb.ANALYSIS_SENTIMENT_NEUTRAL,
    Sentiment.NEGATIVE: pb.ANALYSIS_SENTIMENT_NEGATIVE,
}
RESOLUTIONS = {
    Resolution.RESOLVED: pb.ANALYSIS_RESOLUTION_RESOLVED,
    Resolution.UNRESOLVED: pb.ANALYSIS_RESOLUTION_UNRESOLVED,
    Resolution.UNKNOWN: pb.ANALYSIS_RESOLUTION_UNKNOWN,
}
STAGES: Mapping[Stage, pb.AnalysisStage.ValueType] = {
    Stage.HUMAN: pb.ANALYSIS_STAGE_HUMAN,
    Stage.EXAMPLES: pb.ANALYSIS_STAGE_EXAMPLES,
    Stage.RULES: pb.ANALYSIS_STAGE_RULES,
    Stage.LOCAL_MODEL: pb.ANALYSIS_STAGE_LOCAL_MODEL,
    Stage.LANGUAGE_MODEL: pb.ANALYSIS_STAGE_LANGUAGE_MODEL,
}
_SETTINGS = ("automatic", "language_model", "daily_token_cap", "idle_timeout", "k_anonymity", "automatic_feedback")
# One analysis tells of up to a hundred messages; an answer of a thousand would be more than gRPC sends.
PAGE_BYTES = 2 * 1024 * 1024
_Label = TypeVar("_Label")
_Value = TypeVar("_Value")


def analysis_out(analysis: Analysis) -> pb.Analysis:
    """The analysis as the contract has it."""
    findings = analysis.findings
    return pb.Analysis(
        analysis_id=analysis.analysis_id,
        conversation_id=analysis.conversation_id,
        version=analysis.version,
        newest=analysis.newest,
        trigger=TRIGGERS[analysis.trigger],
        create_time=_timestamp(analysis.create_time),
        last_seq=analysis.last_seq,
        last_message_time=_timestamp(analysis.last_time),
        category=CATEGORIES[findings.category],
        main_topic=findings.main_topic,
        topics=[
            pb.FoundTopic(name=each.name, weight=each.weight, confidence=each.confidence, recency=each.recency)
            for each in findings.topics
        ],
        keywords=findings.keywords,
        sentiment=SENTIMENTS[findings.sentiment],
        satisfaction=findings.satisfaction,
        resolution=RESOLUTIONS[findings.resolution],
        issue_category=findings.issue_category,
        summary=findings.summary,
        findings=[
            pb.Finding(field=name, stage=STAGES[made.stage], confidence=made.confidence)
            for name, made in sorted(findings.made.items())
        ],
        user_id=analysis.user_id,
        assistant_id=analysis.assistant_id,
        team_id=analysis.team_id,
        channel=analysis.channel,
        model=analysis.spent.model,
        usage=tokens_of(analysis.spent) if analysis.spent.model else None,
        corrected_by=analysis.corrected_by,
        language_model_missed=analysis.missed.value,
        messages=map(_message_out, findings.messages),
    )


def _message_out(message: MessageContent) -> pb.MessageContent:
    return pb.MessageContent(
        message_id=message.message_id,
        seq=message.seq,
        topic=message.topic,
        topic_confidence=message.topic_confidence,
        sentiment=SENTIMENTS[Sentiment(message.sentiment)],
        sentiment_confidence=message.sentiment_confidence,
        keywords=message.keywords,
    )


def corrections_of(request: pb.CorrectAnalysisRequest) -> dict[str, Any]:
    """What a person says instead, by field; InvalidArgument for fields that are not theirs to say, or left open."""
    told = request.analysis
    read: Mapping[str, Callable[[], Any]] = {
        "main_topic": lambda: told.main_topic.strip(),
        "category": lambda: _named(CATEGORIES, told.category),
        "sentiment": lambda: _named(SENTIMENTS, told.sentiment),
        "satisfaction": lambda: told.satisfaction,
        "resolution": lambda: _named(RESOLUTIONS, told.resolution),
        "issue_category": lambda: told.issue_category,
        "summary": lambda: told.summary.strip(),
    }
    values = {name: read[name]() for name in _paths(request.update_mask, CORRECTABLE)}
    for name in ("main_topic", "category", "sentiment", "satisfaction", "resolution"):
        if name in values and not values[name]:
            raise _wrong(f"analysis.{name}", "must be stated")
    return values


def changes_of(request: pb.UpdateAnalysisSettingsRequest) -> dict[str, Any]:
    """The settings to change, named as in the model."""
    told = request.settings
    changes: dict[str, Any] = {name: getattr(told, name) for name in _paths(request.update_mask, _SETTINGS)}
    if "idle_timeout" in changes:
        if not told.HasField("idle_timeout"):
            raise _wrong("settings.idle_timeout", "must be stated")
        changes["idle_timeout"] = told.idle_timeout.ToTimedelta()
    return changes


def settings_out(settings: Settings) -> pb.AnalysisSettings:
    """The settings as the contract has them."""
    return pb.AnalysisSettings(
        automatic=settings.automatic,
        language_model=settings.language_model,
        daily_token_cap=settings.daily_token_cap,
        idle_timeout=_duration(settings.idle_timeout),
        k_anonymity=settings.k_anonymity,
        automatic_feedback=settings.automatic_feedback,
    )


def topic_map_out(topics: list[TopicSums], floor: int, most: int) -> pb.TopicMap:
    """The topics that enough people spoke about; of the others only how many conversations they had together."""
    shown = [topic for topic in topics if topic.users >= floor]
    hidden = sum(topic.conversations for topic in topics if topic.users < floor)
    return pb.TopicMap(
        topics=[
            pb.Topic(
                name=topic.name,
                aliases=topic.aliases,
                conversations=topic.conversations,
                users=topic.users,
                positive=topic.positive,
                neutral=topic.neutral,
                negative=topic.negative,
            )
            for topic in shown[:most]
        ],
        hidden_conversations=hidden,
        k_anonymity=floor,
    )


def wanted_of(request: pb.ListAnalysesRequest, tenant_id: str) -> Wanted:
    """The question asked; InvalidArgument for a page token of another one."""
    position = page_position(request.page_token, _query(request))
    equal = {
        "main_topic": request.main_topic,
        "category": _value_of(CATEGORIES, request.category),
        "sentiment": _value_of(SENTIMENTS, request.sentiment),
        "resolution": _value_of(RESOLUTIONS, request.resolution),
    }
    return Wanted(
        tenant_id=tenant_id,
        equal={name: value for name, value in equal.items() if value},
        conversation_id=request.conversation_id,
        start=_moment(request, "start_time"),
        end=_moment(request, "end_time"),
        all_versions=request.all_versions,
        before=_before(position) if position else None,
    )


def page_out(page: Page, request: pb.ListAnalysesRequest, size: int) -> pb.ListAnalysesResponse:
    """As many as one answer holds, `size` at the most; `page` may have one more, which tells that there is another."""
    response, place = pb.ListAnalysesResponse(), page.looked_until
    for analysis in page.found:
        shown = analysis_out(analysis)
        if response.analyses and (
            len(response.analyses) == size or response.ByteSize() + shown.ByteSize() > PAGE_BYTES
        ):
            break
        response.analyses.append(shown)
    if len(response.analyses) < len(page.found):
        last = page.found[len(response.analyses) - 1]
        place = last.last_time, last.analysis_id
    if place:
        position: dict[str, JSON] = {"time": place[0].timestamp(), "id": place[1]}
        response.next_page_token = page_token(_query(request), position)
    return response


def _query(request: pb.ListAnalysesRequest) -> dict[str, object]:
    asked = pb.ListAnalysesRequest()
    asked.CopyFrom(request)
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    return {"list": "analyses", "asked": asked.SerializeToString(deterministic=True).hex()}


def _before(position: Mapping[str, Any]) -> Place:
    try:
        return datetime.fromtimestamp(float(position["time"]), UTC), str(position["id"])
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise InvalidArgument("page_token is not valid", reason="PAGE_TOKEN_INVALID") from None


def _moment(request: pb.ListAnalysesRequest, field: str) -> datetime | None:
    try:
        return moment_of(getattr(request, field)) if request.HasField(field) else None  # type: ignore[arg-type]
    except ValueError:
        raise _wrong(field, "a time outside the calendar") from None


def _named(labels: Mapping[_Label, _Value], value: _Value) -> _Label | None:
    return next((label for label, each in labels.items() if each == value), None)


def _value_of(labels: Mapping[Any, Any], value: int) -> str:
    label = _named(labels, value)
    return label.value if label else ""


def _paths(mask: FieldMask, known: tuple[str, ...]) -> list[str]:
    unknown = [path for path in mask.paths if path not in known]
    if unknown or not mask.paths:
        raise _wrong("update_mask", f"must name some of {', '.join(known)}")
    return list(dict.fromkeys(mask.paths))


def _timestamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _duration(length: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(length)
    return duration


def _wrong(field: str, description: str) -> InvalidArgument:
    violation = FieldViolation(field=field, description=description, reason="INVALID_VALUE")
    return InvalidArgument(description, violations=[violation])
