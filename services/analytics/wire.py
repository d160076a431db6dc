"""What all rooms read in contracts the same way."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp


def moment_of(timestamp: Timestamp) -> datetime:
    """The moment, UTC; ValueError when it is outside the calendar."""
    try:
        return datetime.fromtimestamp(timestamp.seconds, UTC) + timedelta(microseconds=timestamp.nanos // 1000)
    except (ValueError, OverflowError, OSError):
        raise ValueError("a time outside the calendar") from None
