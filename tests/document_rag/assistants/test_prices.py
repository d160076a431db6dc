"""What an answer costs: told, stored and charged by the one price book, whatever the settings say."""

import pytest

from prosa.document_rag.v1 import team_service_pb2 as team_pb
from services.document_rag.assistants.token_budget import TokenBudget
from services.tenant_quota.plan_model import Rates
from services.tenant_quota.prices import Prices
from shared.errors import Unavailable
from tests.document_rag.neighbourhood import Tenant, ask
from tests.document_rag.team_people import team_of

# A millionth for seven tokens that go in, three for one that comes out: so there is something to round.
RATES = Rates(input_micros=142_857, cached_input_micros=0, output_micros=3_000_000, reasoning_micros=0)


@pytest.fixture
async def priced(tenant: Tenant) -> str:
    """A model of which the price book knows the price."""
    await Prices(tenant.house.quota_pool).set("fake-priced", None, RATES, None)
    return "fake-priced"


async def test_an_answer_costs_what_the_ledger_charges(tenant: Tenant, priced: str) -> None:
    told = await tenant.ask(ask(await tenant.assistant(priced)))
    answer = (await tenant.messages(told.accepted.conversation_id))[-1]
    assert told.completed.cost_micros == answer.cost_micros > 0
    assert await tenant.costs() == [told.completed.cost_micros]


async def test_a_teams_answer_costs_what_the_ledger_charges_for_its_steps(tenant: Tenant, priced: str) -> None:
    team = await team_of(tenant, team_pb.TEAM_STRATEGY_SEQUENCE, members=(priced, priced))
    told = await team.asked("Quando vence a cota única?")
    answer = (await tenant.messages(told.accepted.conversation_id))[-1]
    assert told.completed.cost_micros == answer.cost_micros
    *steps, whole = await tenant.costs()
    assert (len(steps), whole) == (2, 0)
    assert sum(steps) == told.completed.cost_micros > 0


async def test_a_price_book_that_is_away_holds_no_answer_up(
    tenant: Tenant, priced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable(dependency="tenant_quota")

    monkeypatch.setattr(TokenBudget, "price", away)
    told = await tenant.ask(ask(await tenant.assistant(priced)))
    assert told.completed.cost_micros == 0
    assert (await tenant.costs())[0] > 0, "what is charged is the price book's all the same"
