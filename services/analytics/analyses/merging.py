"""Findings put together: what a language model says of the uncertain ones, and what people have corrected."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from services.analytics.analyses.language_model import Verdict
from services.analytics.analyses.model import (
    Analysis,
    Category,
    Finding,
    Findings,
    Resolution,
    Sentiment,
    Stage,
)
from services.analytics.content.topics import FoundTopic, ranked

# A language model does not tell how sure it is; it was asked because all before it were less sure than this.
VERDICT_CONFIDENCE = 0.8
# What follows from the feeling is the model's too when the feeling is.
_WITH_SENTIMENT = ("satisfaction", "resolution")


def merged(findings: Findings, verdict: Verdict, fields: Collection[str]) -> Findings:
    """The findings with the verdict on the fields that were uncertain, and its summary and issue."""
    changes: dict[str, Any] = {"summary": verdict.summary or findings.summary, "issue_category": verdict.issue_category}
    if "category" in fields:
        changes["category"] = Category(verdict.category)
    if "sentiment" in fields:
        changes["sentiment"] = Sentiment(verdict.sentiment)
        changes["resolution"] = Resolution(verdict.resolution)
        if findings.made["satisfaction"].stage is not Stage.HUMAN:
            changes["satisfaction"] = verdict.satisfaction
    if "main_topic" in fields:
        changes |= _topics(findings, verdict)
    said = (*fields, *(_WITH_SENTIMENT if "sentiment" in fields else ()), "summary")
    by_model = {name: Finding(Stage.LANGUAGE_MODEL, VERDICT_CONFIDENCE) for name in said if name in changes}
    return replace(findings, made={**findings.made, **by_model}, **changes)


def corrected(findings: Findings, values: Mapping[str, Any]) -> Findings:
    """The findings with what a person says instead."""
    made = {**findings.made, **{name: Finding(Stage.HUMAN, 1.0) for name in values}}
    topics = findings.topics
    if values.get("main_topic"):
        others = [each for each in topics if each.name != values["main_topic"]]
        topics = (FoundTopic(values["main_topic"], 1.0, 1.0, 1.0), *others)
    return replace(findings, made=made, topics=topics, **values)


def with_corrections(analysis: Analysis, before: Analysis) -> Analysis:
    """The analysis with what a person had said of the version before: it stays."""
    fields = before.corrected_fields
    if not fields:
        return analysis
    findings = corrected(analysis.findings, {name: getattr(before.findings, name) for name in fields})
    return replace(analysis, findings=findings, corrected_fields=fields, corrected_by=before.corrected_by)


def _topics(findings: Findings, verdict: Verdict) -> dict[str, Any]:
    names = dict.fromkeys([verdict.main_topic, *verdict.topics])
    main = FoundTopic(verdict.main_topic, 1.0, VERDICT_CONFIDENCE, 1.0)
    others = [FoundTopic(name, 0.5, VERDICT_CONFIDENCE, 0.75, place) for place, name in enumerate(names) if place]
    kept = [each for each in findings.topics if each.name not in names]
    return {"main_topic": verdict.main_topic, "topics": ranked([main, *others, *kept])}
