"""Where tests live, so that no day and no month ends while they run: what they use today is not yesterday's."""

from datetime import UTC, datetime


def zone_of_noon(now: datetime) -> str:
    """The name of a zone in which it is about noon."""
    hours_ahead = 12 - now.astimezone(UTC).hour
    return f"Etc/GMT{-hours_ahead:+d}"  # these names count westwards


AT_NOON = zone_of_noon(datetime.now(UTC))
