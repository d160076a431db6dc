"""Plans and prices over HTTP, and the turn that they concern."""

import httpx
import pytest

from tests.house.processes import System
from tests.journeys.tenant import Json, Tenant, new_tenant

BUDGET = {"displayName": "Município pequeno", "tokensPerDay": "2000000", "costMicrosPerMonth": "5000000"}
QUESTION = "Qual é o horário de atendimento?"
COMPONENTS = ("inputMicros", "cachedInputMicros", "outputMicros", "reasoningMicros")


@pytest.fixture(scope="module")
def tenant(system: System) -> Tenant:
    """On a plan with a budget."""
    made = new_tenant(system)
    plan = made.platform.post("/v1/plans", {"plan": BUDGET})
    given = made.platform.call("PUT", f"/v1/tenants/{made.tenant_id}/plan", {"planId": plan["planId"]})
    assert given == made.admin.get("/v1/plan"), "the tenant sees what it is on"
    assert given["limits"]["costMicrosPerMonth"]["source"] == "LIMIT_SOURCE_PLAN"
    return made


def test_what_is_free_is_priced_at_zero(tenant: Tenant) -> None:
    assert tenant.admin.ask(tenant.assistant_id, QUESTION).completed
    settled = tenant.ledger()[0]
    assert (settled["kind"], settled["priced"], settled["costMicros"]) == ("LEDGER_ENTRY_KIND_SETTLED", True, "0")


def test_a_price_is_announced_replaced_and_taken_back(tenant: Tenant) -> None:
    model, begin = "casa/modelo-grande", "2126-01-01T00:00:00Z"
    price = {"model": model, "effectiveTime": begin, **dict.fromkeys(COMPONENTS, "7000000")}
    prices, platform = "/v1/prices", tenant.platform
    platform.post(prices, price)
    platform.post(prices, {**price, "outputMicros": "8000000"})
    listed = tenant.admin.get(prices, model=model)["prices"]
    assert [(each["effectiveTime"], each["outputMicros"], each["currencyCode"]) for each in listed] == [
        (begin, "8000000", "BRL")
    ]
    assert tenant.admin.http.get(f"{prices}:inForce", params={"model": model}).status_code == 404
    assert tenant.admin.get(f"{prices}:inForce", model=model, time="2126-06-01T00:00:00Z")["outputMicros"] == "8000000"
    platform.call("DELETE", prices, model=model, effectiveTime=begin)
    assert tenant.admin.get(prices, model=model)["prices"] == []
    forgotten = platform.http.post(prices, json={key: price[key] for key in ("model", "inputMicros")})
    assert (forgotten.status_code, _reason(forgotten)) == (400, "VALIDATION_FAILED")


def test_a_plan_in_use_is_not_deleted(tenant: Tenant) -> None:
    plan_id = tenant.admin.get("/v1/plan")["plan"]["planId"]
    refused = tenant.platform.http.delete(f"/v1/plans/{plan_id}")
    assert (refused.status_code, _reason(refused)) == (400, "PLAN_IN_USE")


def _reason(response: httpx.Response) -> str:
    status: Json = response.json()
    return str(status["details"][0]["reason"])
