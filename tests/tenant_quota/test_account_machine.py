"""The account against a clerk who writes everything down: hypothesis looks for a history in which the two differ."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pydantic import SecretStr

from services.tenant_quota.__main__ import SCHEMA
from services.tenant_quota.audit import discrepancies
from services.tenant_quota.quota_model import Quota, State
from services.tenant_quota.quotas import Quotas
from services.tenant_quota.reservations import Reservations
from services.tenant_quota.top_ups import TopUps
from shared.errors import FailedPrecondition, QuotaExceeded
from shared.postgres import open_pool, tenant_transaction
from tests.tenant_quota.account_model import KEY, TENANT, USER, Clerk, Gift, Held
from tests.tenant_quota.account_world import ask, more, new_key
from tests.tenant_quota.world import commit, new_tenant, new_user, release, sweep_all

Result = TypeVar("Result")
TOKENS = st.integers(min_value=1, max_value=60)
LEASE_SECONDS = 3_600
MOVES = (
    *("reserve", "reserve", "lend", "lend", "extend", "extend", "commit", "commit", "commit", "change_limits"),
    *("release", "let_a_lease_end", "come_too_late", "top_up", "revoke_a_top_up"),
)
END_LEASE = "UPDATE reservations SET expire_time = clock_timestamp() - interval '1 second' WHERE reservation_id = $1"


class Account(RuleBasedStateMachine):
    """One tenant with a user and a key, driven a step at a time."""

    runner: asyncio.Runner
    pool: asyncpg.Pool

    def __init__(self) -> None:
        super().__init__()
        self.clerk = Clerk()
        self.over: list[str] = []

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    @initialize(limit=st.none() | TOKENS)
    def open_account(self, limit: int | None) -> None:
        self.store = Reservations(self.pool)
        self.tenant_id = self.wait(new_tenant(self.pool))
        self.user_id = self.wait(new_user(self.pool, self.tenant_id))
        self.key_id = self.wait(new_key(self.pool, self.tenant_id))
        self.change_a_limit(TENANT, limit)

    # One rule for all, because hypothesis would leave whole rules out of a history, and with them what they lead to.
    @rule(data=st.data(), move=st.sampled_from(MOVES))
    def go_on(self, data: st.DataObject, move: str) -> None:
        getattr(self, move)(data)

    def change_limits(self, data: st.DataObject) -> None:
        limit = data.draw(st.none() | st.integers(min_value=0, max_value=200))
        self.change_a_limit(data.draw(st.sampled_from([TENANT, USER, KEY])), limit)

    def change_a_limit(self, level: str, limit: int | None) -> None:
        user_id, key_id = self.user_id if level == USER else "", self.key_id if level == KEY else ""
        quota = Quota(self.tenant_id, user_id, limit if level == USER else None, limit, key_id=key_id)
        self.wait(Quotas(self.pool).set(quota))
        self.clerk.limits[level] = limit

    def reserve(self, data: st.DataObject) -> None:
        levels = data.draw(st.sampled_from([(TENANT,), (TENANT, USER), (TENANT, KEY), (TENANT, USER, KEY)]))
        tokens, minimum = data.draw(TOKENS), data.draw(TOKENS)
        self.hold(Held(0, levels), "", tokens, min(tokens, minimum))

    def lend(self, data: st.DataObject) -> None:
        parents = [name for name, held in self.clerk.open.items() if not held.parent]
        if parents:
            parent = data.draw(st.sampled_from(parents))
            tokens = data.draw(TOKENS)
            self.hold(Held(0, self.clerk.open[parent].levels, parent), parent, tokens, 1)

    def hold(self, held: Held, parent: str, tokens: int, minimum: int) -> None:
        expected, drawn = self.expected(held, tokens)
        asked = ask(
            self.tenant_id,
            tokens,
            minimum=minimum,
            user_id=self.user_id if USER in held.levels else "",
            key_id=self.key_id if KEY in held.levels else "",
            parent=parent,
            lease_seconds=LEASE_SECONDS,
        )
        try:
            got = self.wait(self.store.reserve(asked))
        except QuotaExceeded:
            assert expected < minimum
            return
        assert got.granted == expected >= minimum
        self.clerk.open[got.reservation_id] = held
        self.take(held, expected, drawn)

    def extend(self, data: st.DataObject) -> None:
        name = self.any_open(data)
        if name is None:
            return
        tokens = data.draw(st.integers(min_value=0, max_value=60))
        held = self.clerk.open[name]
        expected, drawn = self.expected(held, tokens)
        least = min(tokens, data.draw(TOKENS))
        try:
            got = self.wait(self.store.extend(more(self.tenant_id, name, tokens, least, LEASE_SECONDS)))
        except QuotaExceeded:
            assert expected < least
            return
        assert expected >= least
        self.take(held, expected, drawn)
        assert got.granted == held.granted

    def expected(self, held: Held, tokens: int) -> tuple[int, list[tuple[Gift, int]]]:
        if not held.parent:
            return self.clerk.grant(held.levels, tokens)
        parent = self.clerk.open[held.parent]
        return min(tokens, parent.granted - parent.spent - parent.lent), []

    def take(self, held: Held, tokens: int, drawn: list[tuple[Gift, int]]) -> None:
        held.granted += tokens
        if held.parent:
            self.clerk.open[held.parent].lent += tokens
        else:
            self.clerk.hold(held, tokens, drawn)

    def any_open(self, data: st.DataObject) -> str | None:
        # The latest first: hypothesis likes what comes first, and children come after their parents.
        return data.draw(st.sampled_from(list(self.clerk.open)[::-1])) if self.clerk.open else None

    def commit(self, data: st.DataObject) -> None:
        name, tokens = self.any_open(data), data.draw(st.integers(min_value=0, max_value=90))
        if name is None:
            return
        settled = self.wait(self.store.settle(commit(self.tenant_id, name, tokens)))
        assert settled.child_tokens == self.clerk.open[name].child_tokens
        self.end(name, tokens)

    def release(self, data: st.DataObject) -> None:
        name = self.any_open(data)
        if name is None:
            return
        self.wait(self.store.settle(release(self.tenant_id, name)))
        self.end(name, 0)

    def let_a_lease_end(self, data: st.DataObject) -> None:
        name = self.any_open(data)
        if name is None:
            return
        children = [child for child, held in self.clerk.open.items() if held.parent == name]
        self.wait(self.end_lease(name))
        if data.draw(st.booleans()):
            self.wait(sweep_all(self.pool, self.store))
        else:
            # Nobody has swept yet: those who come late are fenced all the same, the children first.
            for late in [*children, name]:
                assert isinstance(self.wait(self.late(late)), FailedPrecondition)
        self.end(name, 0)

    async def end_lease(self, name: str) -> None:
        async with tenant_transaction(self.pool, self.tenant_id) as connection:
            await connection.execute(END_LEASE, name)

    def end(self, name: str, tokens: int) -> None:
        before = set(self.clerk.open)
        self.clerk.end(name, tokens)
        self.over += before - set(self.clerk.open)

    def come_too_late(self, data: st.DataObject) -> None:
        if self.over:
            assert isinstance(self.wait(self.late(data.draw(st.sampled_from(self.over)))), FailedPrecondition)

    async def late(self, name: str) -> object:
        (answer,) = await asyncio.gather(self.store.settle(commit(self.tenant_id, name, 91)), return_exceptions=True)
        return answer

    def top_up(self, data: st.DataObject) -> None:
        tokens, priority = data.draw(TOKENS), data.draw(st.integers(min_value=0, max_value=2))
        given = self.wait(TopUps(self.pool).create(self.tenant_id, tokens, priority, None, "", None))
        self.clerk.gifts.append(Gift(given.top_up_id, priority, tokens))

    def revoke_a_top_up(self, data: st.DataObject) -> None:
        if not self.clerk.gifts:
            return
        gift = data.draw(st.sampled_from(self.clerk.gifts))
        ended = self.wait(TopUps(self.pool).revoke(self.tenant_id, gift.top_up_id))
        assert (ended.used, ended.held) == (gift.used, gift.held)
        gift.left, gift.is_over = 0, True

    def teardown(self) -> None:
        if hasattr(self, "key_id"):
            self.wait(self.compare())
            for name in [name for name, held in self.clerk.open.items() if not held.parent]:
                settled = self.wait(self.store.settle(release(self.tenant_id, name)))
                assert settled.state is State.RELEASED
                self.clerk.end(name, 0)
            assert set(self.clerk.held.values()) == {0}
            self.wait(self.compare())
            self.wait(self.store.close())

    async def compare(self) -> None:
        quotas = Quotas(self.pool)
        found = [*await quotas.usage(self.tenant_id, self.user_id, self.key_id)]
        for level, usage in zip((TENANT, USER, KEY), found[1::2], strict=True):
            assert (usage.used_tokens, usage.held_tokens) == (self.clerk.used[level], self.clerk.held[level]), level
        assert [usage.used_tokens for usage in found[::2]] == list(self.clerk.used.values())
        assert found[1].topped_up_tokens == self.clerk.topped_used
        assert await discrepancies(self.pool, self.tenant_id) == []


def look(database: SecretStr, histories: int) -> None:
    """For a history that ends badly."""
    with asyncio.Runner() as runner:
        opening = open_pool(database, schema=SCHEMA, max_size=2)
        pool = runner.run(opening.__aenter__())
        try:
            machine = type("Account", (Account,), {"runner": runner, "pool": pool})
            slow = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
            chosen = settings(max_examples=histories, stateful_step_count=20, suppress_health_check=slow, database=None)
            run_state_machine_as_test(machine, settings=chosen)
        finally:
            runner.run(opening.__aexit__(None, None, None))


def test_no_history_leads_the_account_and_a_careful_clerk_apart(database: SecretStr) -> None:
    look(database, 150)


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)  # on a slow machine three quarters of an hour
def test_none_of_10_000_histories_leads_the_account_and_a_careful_clerk_apart(database: SecretStr) -> None:
    look(database, 10_000)
