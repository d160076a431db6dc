"""What all rooms read in contracts the same way."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def moment_of(timestamp: Timestamp) -> datetime:
    """The moment, UTC; ValueError when it is outside the calendar."""
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise ValueError("a time outside the calendar") from None
