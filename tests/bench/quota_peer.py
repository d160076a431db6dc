"""How LiteLLM's proxy keeps budgets, in-process on Redis: `budget_reservation`, and a key's budget counted afterwards.

A process of its own, in the environment of this peer (`make bench` makes it), that is told what to do line by line: a
JSON object on standard input, the outcome on standard output.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import uvloop
from fastapi import HTTPException
from litellm.caching.redis_cache import RedisCache
from litellm.exceptions import BudgetExceededError
from litellm.proxy import proxy_server
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.spend_tracking import budget_reservation

from tests.bench.quota_load import Outcome, Side, load

ROUTE = "/v1/chat/completions"
BODY: Mapping[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Qual é o prazo para pagar o IPTU?"}],
    "max_tokens": 100,
}
SPENT_PART = 0.3


class BudgetReservation:
    """A key with a budget: the worst case is held before the call and made right after it."""

    def __init__(self, budgets: Mapping[str, float]) -> None:
        self._keys = {key: UserAPIKeyAuth(token=key, max_budget=budget) for key, budget in budgets.items()}

    async def reserve(self, tenant_id: str, number: int) -> Any:
        del number
        try:
            return await budget_reservation.reserve_budget_for_request(
                request_body=dict(BODY),
                route=ROUTE,
                llm_router=None,
                valid_token=self._keys[tenant_id],
                team_object=None,
                user_object=None,
                prisma_client=None,
                user_api_key_cache=proxy_server.user_api_key_cache,
                proxy_logging_obj=proxy_server.proxy_logging_obj,
            )
        except (BudgetExceededError, HTTPException):
            return None

    async def commit(self, tenant_id: str, held: Any) -> None:
        del tenant_id
        await budget_reservation.reconcile_budget_reservation(held, held["reserved_cost"] * SPENT_PART)


class KeyBudget:
    """A key with a budget: spending is looked at before the call and added after it."""

    def __init__(self, budgets: Mapping[str, float], cost: float) -> None:
        self._budgets, self._cost = budgets, cost

    async def reserve(self, tenant_id: str, number: int) -> Any:
        del number
        spent = await proxy_server.get_current_spend(counter_key=f"spend:key:{tenant_id}", fallback_spend=0.0)
        return None if spent >= self._budgets[tenant_id] else self._cost

    async def commit(self, tenant_id: str, held: Any) -> None:
        await proxy_server.increment_spend_counters(token=tenant_id, team_id=None, user_id=None, response_cost=held)


def _spent_a_request() -> float:
    counts = {"gpt-4o-mini": 20}
    worst = budget_reservation.estimate_request_max_cost(
        request_body=dict(BODY), route=ROUTE, llm_router=None, input_token_counts=counts
    )
    return float(worst or 0) * SPENT_PART


def _side(order: Mapping[str, Any], cost: float) -> Side:
    """Budgets that let so many cycles through, or as good as any."""
    budgets = dict.fromkeys(order["tenants"], cost * (order["requests"] or 10**12))
    return BudgetReservation(budgets) if order["side"] == "budget_reservation" else KeyBudget(budgets, cost)


async def serve(url: str) -> None:
    """Does what it is told until standard input ends."""
    where = urlsplit(url)
    proxy_server.spend_counter_cache.redis_cache = RedisCache(host=where.hostname, port=where.port)
    cost = _spent_a_request()
    print(json.dumps("ready"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        outcome: Outcome = await load([_side(order, cost)], order["tenants"], order["seconds"])
        spent = [
            await proxy_server.get_current_spend(counter_key=f"spend:key:{key}", fallback_spend=0.0)
            for key in order["tenants"][:1]
        ]
        print(json.dumps({**outcome, "spent_requests": spent[0] / cost}), flush=True)


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
