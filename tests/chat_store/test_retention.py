"""What leaves by itself, and what must not."""

import asyncio
from functools import partial

import pytest

from services.chat_store import retention as retention_module
from services.chat_store.acts import Delete, Describe
from services.chat_store.model import ConversationStatus
from services.chat_store.policies import Policies
from services.chat_store.policy import Policy
from services.chat_store.retention import TRIM_STRIDE, Cleaned, Retention
from services.chat_store.selection import Reach, Selection
from services.chat_store.store import ChatStore
from shared.clock import ManualClock
from shared.errors import Conflict, Unavailable
from tests.chat_store.replicas import Replicas, is_gone
from tests.chat_store.workshop import batch_of, everything, pair, said, somebody, started
from tests.house.waiting import until_answered

DAY = 86_400.0


def retention_of(store: ChatStore, days: float = 0, **wanted: float) -> Retention:
    """One that believes it is so many days later."""
    clock = ManualClock()
    clock.advance(days * DAY)
    return Retention(store, Policies(store.upkeep), clock=clock, **wanted)


async def listed(store: ChatStore, reach: Reach) -> set[str]:
    found, _ = await store.select(reach, Selection(statuses=frozenset(ConversationStatus)))
    return {conversation.conversation_id for conversation in found}


async def test_what_is_expired_or_deleted_for_good_is_purged_and_nothing_else(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    for name in ("kept", "expiring", "deleted", "deleted-later"):
        await started(store, reach, conversation_id=name)
        await store.append(reach, name, pair("a"))
    await store.act(reach, "expiring", Describe(ttl_seconds=3600))
    await store.act(reach, "deleted", Delete(purge_after_days=2))
    await store.act(reach, "deleted-later", Delete(purge_after_days=30))
    await retention_of(store).cleanup()
    assert await listed(store, reach) == {"kept", "expiring", "deleted", "deleted-later"}
    await retention_of(store, days=1).cleanup()
    assert await listed(store, reach) == {"kept", "deleted", "deleted-later"}
    await retention_of(store, days=3).cleanup()
    assert await listed(store, reach) == {"kept", "deleted-later"}
    assert len(await everything(store, reach, "kept")) == 2


async def test_idle_conversations_leave_after_the_tenants_retention_days(replicas: Replicas) -> None:
    store, strict, relaxed = replicas.store, somebody(), somebody()
    for reach in (strict, relaxed):
        await started(store, reach, conversation_id="old")
    await store.upkeep.set_policy(strict.tenant_id, Policy(retention_days=30))
    await retention_of(store, days=29).cleanup()
    assert await listed(store, strict) == {"old"}
    assert (await retention_of(store, days=31).cleanup()).purged >= 1
    assert await listed(store, strict) == set()
    assert await listed(store, relaxed) == {"old"}


async def test_two_replicas_may_clean_up_at_once(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "BATCH", 3)
    store, reach = replicas.store, somebody()
    await store.upkeep.set_policy(reach.tenant_id, Policy(retention_days=1))
    for _ in range(10):
        await started(store, reach)
    await asyncio.gather(*(retention_of(each, days=2).cleanup() for each in (store, replicas.other)))
    assert await listed(store, reach) == set()


async def test_one_that_cannot_be_purged_does_not_keep_the_others(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "BATCH", 2)
    store, reach = replicas.store, somebody()
    await store.upkeep.set_policy(reach.tenant_id, Policy(retention_days=1))
    for name in ("a", "b", "c", "d", "e"):
        await started(store, reach, conversation_id=name)
    purge = store.upkeep.purge

    async def contested(tenant_id: str, conversation_id: str, *when: object) -> object:
        if conversation_id == "b":
            raise Conflict("too many write to it")
        return await purge(tenant_id, conversation_id, *when)  # type: ignore[arg-type]

    monkeypatch.setattr(store.upkeep, "purge", contested)
    cleaned = await retention_of(store, days=2).cleanup()
    assert await listed(store, reach) == {"b"}
    assert cleaned.failed >= 1


async def test_the_oldest_messages_leave_when_a_conversation_grows_past_the_cap(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    await store.upkeep.set_policy(reach.tenant_id, Policy(max_messages=50))
    await started(store, reach, conversation_id="c")
    retention = retention_of(store)
    for first in range(1, 2 * TRIM_STRIDE, 10):
        stored = await store.append(reach, "c", batch_of(*(said(f"{first}") for _ in range(10))))
        retention.appended(reach.tenant_id, "c", stored[0].seq, stored[-1].seq)
        await retention.drained()
        kept = [message.seq for message in await everything(store, reach, "c")]
        last = first + 9
        assert kept[-1] == last
        assert kept == list(range(kept[0], last + 1))
        assert min(50, last) <= len(kept) < 50 + TRIM_STRIDE
    assert kept == list(range(151, 201))
    assert (await store.get(reach, "c")).first_seq == 151


async def test_without_a_cap_nothing_is_trimmed(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    await started(store, reach, conversation_id="c")
    retention = retention_of(store)
    stored = await store.append(reach, "c", batch_of(*(said("a") for _ in range(TRIM_STRIDE))))
    retention.appended(reach.tenant_id, "c", stored[0].seq, stored[-1].seq)
    await retention.drained()
    assert len(await everything(store, reach, "c")) == TRIM_STRIDE


async def test_the_regular_pass_trims_what_no_append_told_of(replicas: Replicas) -> None:
    store, reach = replicas.store, somebody()
    retention = retention_of(store)
    for name in ("long", "short"):
        await started(store, reach, conversation_id=name)
    for _ in range(5):
        await store.append(reach, "long", pair("a"))
    await store.append(reach, "short", pair("a"))
    await store.upkeep.set_policy(reach.tenant_id, Policy(max_messages=3))
    assert (await retention.cleanup()).trimmed == 6
    assert [message.seq for message in await everything(store, reach, "long")] == [7, 8, 9, 10]
    assert [message.seq for message in await everything(store, reach, "short")] == [1, 2]
    await store.append(reach, "long", pair("b"))
    await store.upkeep.set_policy(reach.tenant_id, Policy(max_messages=1))
    assert (await retention.cleanup()).trimmed == 4, "another cap is held against all"


async def test_the_loop_outlives_a_store_that_is_away(replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reach = replicas.store, somebody()
    await store.upkeep.set_policy(reach.tenant_id, Policy(retention_days=1))
    await started(store, reach, conversation_id="old")
    retention = retention_of(store, days=2, interval_seconds=0.01)
    cleanup, failures = retention.cleanup, iter([Unavailable("away"), RuntimeError("a bug"), None])

    async def sometimes() -> Cleaned:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        return await cleanup()

    monkeypatch.setattr(retention, "cleanup", sometimes)
    async with retention.running():
        await until_answered(partial(is_gone, store, reach, "old"))


async def test_what_was_said_meanwhile_spares_a_conversation(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the moment at which it is found to be due and its purge somebody may speak."""
    store, reach = replicas.store, somebody()
    await store.upkeep.set_policy(reach.tenant_id, Policy(retention_days=1))
    for name in ("idle", "expiring"):
        await started(store, reach, conversation_id=name)
    await store.act(reach, "expiring", Describe(ttl_seconds=3600))

    async def idle(tenant_id: str, *_: object) -> list[str]:
        return ["idle"] if tenant_id == reach.tenant_id else []

    async def leaving(*_: object) -> list[tuple[str, str]]:
        return [(reach.tenant_id, "expiring")]

    monkeypatch.setattr(store.upkeep, "idle", idle)
    monkeypatch.setattr(store.upkeep, "leaving", leaving)
    await retention_of(store).cleanup()
    assert await listed(store, reach) == {"idle", "expiring"}
