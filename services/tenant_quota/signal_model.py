"""The nouns and rules of signals: which share of a limit was passed, whom it is told, and how often that is tried.

Levels, measures and states carry the numbers of the contract, which are also what the tables keep.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum

from services.tenant_quota.quota_model import Level, Window

MOST_WEBHOOKS = 10
# Of a webhook, on their way.
MOST_TESTS = 10
SIGNAL_TYPE = "usage.threshold_crossed"
TEST_TYPE = "webhook.test"


class Measure(IntEnum):
    """What is limited."""

    TOKENS = 1
    COST = 2


class DeliveryState(IntEnum):
    """Where a delivery is."""

    PENDING = 1
    DELIVERED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Signal:
    """Usage passed a share of a limit; `subject` is the user's or the key's id, "" for the tenant as a whole."""

    signal_id: int
    tenant_id: str
    level: Level
    subject: str
    window: Window
    measure: Measure
    percent: int
    limit: int
    used: int
    period_start_time: datetime
    create_time: datetime

    def concerns(self, user_id: str | None) -> bool:
        """Whether it is one of this user; None is everybody."""
        return user_id is None or (self.level is Level.USER and self.subject == user_id)


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told of signals. Its secret follows from `secret_version` and is not kept."""

    webhook_id: str
    tenant_id: str
    url: str = field(repr=False)
    display_name: str
    enabled: bool
    levels: Sequence[Level]
    failing_since: datetime | None
    disabled_reason: str
    secret_version: int
    previous_secret_expire_time: datetime | None
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to a webhook; without a `signal_id` it is a test."""

    delivery_id: str
    webhook_id: str
    signal_id: int | None
    state: DeliveryState
    attempts: int
    http_status: int
    last_error: str
    next_attempt_time: datetime | None
    end_time: datetime | None
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Patience:
    """How long deliveries are tried, and how long a webhook may fail."""

    first_pause: timedelta = timedelta(seconds=5)
    longest_pause: timedelta = timedelta(hours=1)
    give_up_after: timedelta = timedelta(hours=24)
    disable_after: timedelta = timedelta(days=5)
    # An attempt that is not settled by then was its replica's last: somebody else tries again.
    lease: timedelta = timedelta(seconds=30)

    def pause(self, attempts: int) -> timedelta:
        """How long to wait after so many attempts: twice as long each time, and never two together by agreement."""
        full = min(self.first_pause * 2.0 ** min(attempts - 1, 40), self.longest_pause)
        return full * random.uniform(0.5, 1.0)  # noqa: S311 jitter needs no secrecy
