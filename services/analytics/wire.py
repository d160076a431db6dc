"""What all rooms read in contracts the same way."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(timestamp: Timestamp) -> datetime:
    """The moment, UTC; ValueError when it is outside the calendar."""
    try:
        return _EPOCH + timedelta(0, timestamp.seconds, timestamp.nanos // 1000)
    except OverflowError:
        raise ValueError("a time outside the calendar") from None
