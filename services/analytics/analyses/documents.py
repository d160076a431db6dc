"""Analyses as they lie in MongoDB, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.analytics.analyses.model import (
    Analysis,
    Category,
    Finding,
    Findings,
    MessageContent,
    Missed,
    Resolution,
    Sentiment,
    Spent,
    Stage,
    Step,
    Trigger,
)
from services.analytics.content.topics import FoundTopic

_PLAIN = (
    "tenant_id",
    "conversation_id",
    "version",
    "newest",
    "create_time",
    "last_seq",
    "last_time",
    "who",
    "user_id",
    "assistant_id",
    "team_id",
    "channel",
    "corrected_by",
    "fingerprint",
    "feedback_on",
)
_FOUND = ("main_topic", "satisfaction", "issue_category", "summary")


def analysis_document(analysis: Analysis) -> dict[str, Any]:
    """The document of an analysis; its findings lie flat in it, so that lists can be filtered by them."""
    findings = analysis.findings
    return {
        "_id": analysis.analysis_id,
        **{name: getattr(analysis, name) for name in _PLAIN},
        **{name: getattr(findings, name) for name in _FOUND},
        "trigger": analysis.trigger.value,
        "category": findings.category.value,
        "sentiment": findings.sentiment.value,
        "resolution": findings.resolution.value,
        "topics": [asdict(topic) for topic in findings.topics],
        "keywords": list(findings.keywords),
        "messages": [asdict(message) for message in findings.messages],
        "made": {name: [finding.stage.value, finding.confidence] for name, finding in findings.made.items()},
        "spent": asdict(analysis.spent),
        "missed": analysis.missed.value,
        "corrected_fields": list(analysis.corrected_fields),
        "pending": [step.value for step in analysis.pending],
    }


def analysis_in(document: Mapping[str, Any]) -> Analysis:
    """The analysis in such a document."""
    return Analysis(
        analysis_id=document["_id"],
        **{name: document[name] for name in _PLAIN},
        trigger=Trigger(document["trigger"]),
        findings=_findings_in(document),
        spent=Spent(**document["spent"]),
        missed=Missed(document["missed"]),
        corrected_fields=tuple(document["corrected_fields"]),
        pending=tuple(Step(step) for step in document["pending"]),
    )


def _findings_in(document: Mapping[str, Any]) -> Findings:
    return Findings(
        **{name: document[name] for name in _FOUND},
        category=Category(document["category"]),
        sentiment=Sentiment(document["sentiment"]),
        resolution=Resolution(document["resolution"]),
        topics=tuple(FoundTopic(**topic) for topic in document["topics"]),
        keywords=tuple(document["keywords"]),
        messages=tuple(
            MessageContent(**{**message, "keywords": tuple(message["keywords"])}) for message in document["messages"]
        ),
        made={name: Finding(Stage(stage), confidence) for name, (stage, confidence) in document["made"].items()},
    )
