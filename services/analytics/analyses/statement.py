"""An analysis as a statement of the rollups: what it adds to the series until the next version takes its place."""

from services.analytics.analyses.model import Analysis, Resolution, Sentiment
from services.analytics.model import Axis, Statement, Subject
from services.analytics.rollups import names

_SENTIMENTS = {
    Sentiment.POSITIVE: names.SENTIMENT_POSITIVE,
    Sentiment.NEUTRAL: names.SENTIMENT_NEUTRAL,
    Sentiment.NEGATIVE: names.SENTIMENT_NEGATIVE,
}


def statement_of(analysis: Analysis) -> Statement:
    """Counts in the hour of the conversation's last message, in the series of its topic and category too."""
    findings = analysis.findings
    counts = {names.ANALYSES: 1, _SENTIMENTS[findings.sentiment]: 1}
    if findings.satisfaction:
        counts |= {names.SATISFACTION: findings.satisfaction, names.SATISFACTION_KNOWN: 1}
    if findings.resolution is not Resolution.UNKNOWN:
        counts[names.RESOLVED if findings.resolution is Resolution.RESOLVED else names.UNRESOLVED] = 1
    topics = [(Axis.TOPIC.value, findings.main_topic)] if findings.main_topic else []
    return Statement(
        event_id=f"analysis-{analysis.analysis_id}",
        tenant_id=analysis.tenant_id,
        subject=Subject.CONTENT,
        subject_id=analysis.conversation_id,
        revision=analysis.version,
        time=analysis.last_time,
        counts=counts,
        places=(*topics, (Axis.CATEGORY.value, findings.category.value)),
        conversation_id=analysis.conversation_id,
        user_id=analysis.user_id,
        assistant_id=analysis.assistant_id,
        team_id=analysis.team_id,
        channel=analysis.channel,
        # No feed tells it: building the projection anew takes it from its mark.
        outside=True,
    )
