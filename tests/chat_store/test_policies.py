"""A tenant's policy: at once where it is set, soon everywhere else."""

from dataclasses import replace

from services.chat_store.policies import REMEMBERED_SECONDS, Policies
from services.chat_store.policy import Policy
from shared.identifiers import new_id
from tests.chat_store.replicas import Replicas


class Watch:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_a_policy_is_known_at_once_where_it_was_set_and_elsewhere_after_thirty_seconds(
    replicas: Replicas,
) -> None:
    tenant_id, watch = f"t-{new_id()}", Watch()
    here, there = Policies(replicas.store.upkeep, watch), Policies(replicas.other.upkeep, watch)
    assert await here.of(tenant_id) == await there.of(tenant_id) == Policy()
    strict = Policy(retention_days=30, max_messages=100, ttl_seconds=60)
    assert await here.change(tenant_id, retention_days=30, max_messages=100) == replace(strict, ttl_seconds=0)
    assert await here.change(tenant_id, ttl_seconds=60) == strict
    assert await here.of(tenant_id) == strict
    assert await there.of(tenant_id) == Policy()
    watch.seconds = REMEMBERED_SECONDS
    assert await there.of(tenant_id) == strict
    assert await here.of(f"{tenant_id}-other") == Policy()
