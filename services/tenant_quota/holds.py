"""What a batch of wishes and extensions is to `hold` of schema/0014_less_to_do.sql, and what it answers."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, TypeAlias

import asyncpg

from services.tenant_quota.quota_model import (
    Extension,
    Holding,
    Level,
    Limit,
    Reservation,
    State,
    TokenUsage,
    Window,
    Wish,
    denial,
    over,
)
from shared.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    QuotaViolation,
    ServiceError,
)

Outcome: TypeAlias = Reservation | ServiceError

_PLACES = ", ".join(f"${place}" for place in range(2, 26))
HOLD = f"SELECT * FROM hold($1, false, {_PLACES})"  # noqa: S608 only parameter places
# By the rows that were read before; an extension whose user is another by now is not carried out.
EXTEND = f"""
SELECT h.* FROM still_of($1, $9, $14, $15) is_extension, LATERAL hold($1, is_extension, {_PLACES}) h
"""  # noqa: S608 only parameter places

GRANTED, REPEATED = 1, 2
_DENIED, _NO_TENANT, _INACTIVE, _NO_PRICE, _NO_RESERVATION, _EXPIRED, _COMMITTED, _IS_CHILD, _PARENT_SPENT = range(
    3, 12
)


@dataclass(slots=True)
class _Places:
    """Numbers what the requests of a batch share, from 1, as the function wants it."""

    tenants: dict[str, int]
    slots: dict[tuple[str, Level, str, date | None], int] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    parents: dict[tuple[str, str], int] = field(default_factory=dict)
    _months: dict[tuple[str, Level, str, date | None], int] = field(default_factory=dict)

    @classmethod
    def of(cls, tenants: Iterable[str]) -> "_Places":
        # Sorted as the database sorts them: the order in which they are locked.
        return cls({tenant_id: place for place, tenant_id in enumerate(sorted(set(tenants)), start=1)})

    def slot(self, tenant_id: str, level: Level, subject: str, day: date | None = None) -> int | None:
        """None for a level that does not concern the caller."""
        if not subject and level is not Level.TENANT:
            return None
        key = (tenant_id, level, subject, day)
        known = self.slots.get(key)
        if known is None:
            known = self.slots[key] = len(self.slots) + 1
            month = (tenant_id, level, subject, day and day.replace(day=1))
            self.rows.append(self._months.setdefault(month, known))
        return known

    def parent(self, tenant_id: str, reservation_id: str) -> int | None:
        """None for a reservation of its own."""
        if not reservation_id:
            return None
        return self.parents.setdefault((tenant_id, reservation_id), len(self.parents) + 1)

    def head(self) -> tuple[object, ...]:
        """The first parameters of the function."""
        return (
            list(self.tenants),
            [self.tenants[tenant_id] for tenant_id, _, _, _ in self.slots],
            [level for _, level, _, _ in self.slots],
            [subject for _, _, subject, _ in self.slots],
            [day for _, _, _, day in self.slots],
            self.rows,
            [reservation_id for _, reservation_id in self.parents],
            [self.tenants[tenant_id] for tenant_id, _ in self.parents],
        )


def wish_arguments(wishes: Sequence[Wish], key_names: Mapping[str, str]) -> tuple[object, ...]:
    """The parameters of `hold` for new reservations."""
    places = _Places.of(wish.tenant_id for wish in wishes)
    for tenant_id in places.tenants:
        places.slot(tenant_id, Level.TENANT, "")
    requests = (
        [places.tenants[wish.tenant_id] for wish in wishes],
        [places.tenants[wish.tenant_id] for wish in wishes],
        [places.slot(wish.tenant_id, Level.USER, wish.user_id) for wish in wishes],
        [places.slot(wish.tenant_id, Level.KEY, wish.key_id) for wish in wishes],
        [places.parent(wish.tenant_id, wish.parent_reservation_id) for wish in wishes],
        [wish.reservation_id for wish in wishes],
        [wish.user_id for wish in wishes],
        [wish.key_id for wish in wishes],
        [key_names.get(wish.key_id, "") for wish in wishes],
        [wish.tokens for wish in wishes],
        [wish.minimum for wish in wishes],
        [wish.lease_seconds for wish in wishes],
        [wish.model for wish in wishes],
        [wish.conversation_id for wish in wishes],
        [wish.assistant_id for wish in wishes],
        [wish.replay.request_id if wish.replay else None for wish in wishes],
        [wish.replay.fingerprint if wish.replay else None for wish in wishes],
    )
    return *places.head(), *requests


def extension_arguments(extensions: Sequence[Extension], known: Sequence[asyncpg.Record]) -> tuple[object, ...]:
    """The parameters of `hold` for extensions of reservations; `known` are their rows, as far as they never change."""
    places = _Places.of(each.tenant_id for each in extensions)
    requests = (
        [places.tenants[row["tenant_id"]] for row in known],
        [places.slot(row["tenant_id"], Level.TENANT, "", row["day"]) for row in known],
        [places.slot(row["tenant_id"], Level.USER, row["user_id"], row["day"]) for row in known],
        [places.slot(row["tenant_id"], Level.KEY, row["key_id"], row["day"]) for row in known],
        [places.parent(row["tenant_id"], row["parent_reservation_id"]) for row in known],
        [row["reservation_id"] for row in known],
        [row["user_id"] for row in known],
        [row["key_id"] for row in known],
        [row["key_display_name"] for row in known],
        [each.tokens for each in extensions],
        [each.minimum for each in extensions],
        [each.lease_seconds for each in extensions],
        [row["model"] for row in known],
        [row["conversation_id"] for row in known],
        [row["assistant_id"] for row in known],
        [each.replay.request_id if each.replay else None for each in extensions],
        [each.replay.fingerprint if each.replay else None for each in extensions],
    )
    return *places.head(), *requests


def wish_outcome(wish: Wish, answer: asyncpg.Record, place: int) -> Outcome:
    """What became of the wish at that place of the batch, unless it was a repetition."""
    if answer["outcome"][place] != GRANTED:
        return _refusal(wish, wish.key_id, wish.user_id, wish.parent_reservation_id, answer, place)
    return Reservation(
        wish.reservation_id,
        answer["holders"][place] if wish.parent_reservation_id else wish.user_id,
        State.HELD,
        answer["granted"][place],
        answer["now"],
        answer["now"] + timedelta(seconds=wish.lease_seconds),
        parent_reservation_id=wish.parent_reservation_id,
        granted_cost_micros=answer["granted_cost"][place],
        model=wish.model,
    )


def extension_outcome(each: Extension, known: asyncpg.Record, answer: asyncpg.Record, place: int) -> Outcome:
    """What became of the extension at that place of the batch, unless it was a repetition."""
    if answer["outcome"][place] != GRANTED:
        parent = known["parent_reservation_id"]
        return _refusal(each, known["key_id"], known["user_id"], parent, answer, place)
    return replace(
        reservation_of(known),
        granted=answer["total"][place],
        granted_cost_micros=answer["total_cost"][place],
        expire_time=answer["expire_times"][place],
    )


def reservation_of(row: asyncpg.Record) -> Reservation:
    """The reservation in a row of its table."""
    return Reservation(
        row["reservation_id"],
        row["user_id"],
        State(row["state"]),
        row["granted"],
        row["create_time"],
        row["expire_time"],
        usage_of(row),
        row["usage_source"] or 0,
        row["cost_micros"],
        row["parent_reservation_id"],
        row["child_tokens"],
        row["granted_cost"],
        row["priced"],
        row["model"],
    )


def usage_of(row: asyncpg.Record) -> TokenUsage | None:
    """The usage columns of a reservation or ledger row; None before a commit."""
    if row["input_tokens"] is None:
        return None
    return TokenUsage(row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["reasoning_tokens"])


def _refusal(
    wanted: Holding, key_id: str, user_id: str, parent: str, answer: asyncpg.Record, place: int
) -> ServiceError:
    match answer["outcome"][place]:
        case code if code == _DENIED:
            subjects = (f"tenant:{wanted.tenant_id}", f"user:{user_id}", f"key:{key_id}")
            return denial(wanted.minimum, _limits(subjects, json.loads(answer["denials"][place]), wanted))
        case code if code == _INACTIVE:
            return PermissionDenied("the tenant is not active", reason="TENANT_INACTIVE")
        case code if code == _NO_PRICE:
            return FailedPrecondition("the price book knows no price of the model", reason="MODEL_PRICE_UNKNOWN")
        case code if code == _NO_RESERVATION:
            return NotFound("reservation", parent or wanted.reservation_id)
        case code if code in (_EXPIRED, _COMMITTED):
            return over(State.COMMITTED if code == _COMMITTED else State.EXPIRED)
        case code if code == _IS_CHILD:
            text = "must not be a child reservation itself"
            return InvalidArgument(violations=[FieldViolation("parent_reservation_id", text, "parent.depth")])
        case code if code == _PARENT_SPENT:
            text = f"{answer['denials'][place]} tokens are left of what it holds"
            return QuotaExceeded(
                "the parent reservation has not enough left", violations=[QuotaViolation(f"reservation:{parent}", text)]
            )
        case _:
            return NotFound("tenant", wanted.tenant_id)


def _limits(subjects: Sequence[str], told: list[Any], wanted: Holding) -> list[Limit]:
    limits, used, held, left, ends, topped_up, price = told
    found = []
    for place, limit in enumerate(limits):
        if limit is None:
            continue
        subject, is_cost = subjects[place // 3], place % 3 == 2
        needed = -(-wanted.minimum * (price or 0) // 1_000_000) if is_cost else wanted.minimum
        # What top-ups have is beyond the tenant's limits of tokens.
        spare = max(left[place], 0) + topped_up if place < 2 else left[place]
        window = Window.DAY if place % 3 == 0 else Window.MONTH
        unit = "micros" if is_cost else "tokens"
        # An extension is counted in the windows of its reservation, also when these have ended.
        seconds_left = ends[window - 1] if isinstance(wanted, Wish) and needed <= limit else None
        is_full = spare < needed
        found.append(Limit(subject, window, unit, limit, used[place], held[place], seconds_left, is_full))
    return found
