"""The committed questions find their passages at least as well as when the baseline was kept."""

from functools import partial
from uuid import uuid4

import pytest

from services.document_rag.__main__ import Documents
from services.document_rag.model import Filter, Scope, SearchMode, SearchResult
from tests.eval.corpus import answers_of, upload_demo
from tests.eval.questions import SLIPPED, WRITTEN, demo_questions, variants
from tests.eval.scores import Line, answering, losses, retrieval


@pytest.fixture(scope="module")
async def demo(documents: Documents) -> tuple[str, dict[str, str]]:
    """The demo documents of a tenant of their own."""
    tenant = f"quality-{uuid4()}"
    return tenant, await upload_demo(documents, tenant)


async def test_no_change_loses_quality(documents: Documents, demo: tuple[str, dict[str, str]]) -> None:
    tenant, names = demo
    answers = partial(answers_of, names)

    async def find(query: str) -> SearchResult:
        own = Filter(scope=Scope.TENANT)
        return await documents.index.search(tenant, query, top_k=10, mode=SearchMode.HYBRID, filter=own)

    asked = variants(demo_questions())
    lines = [await retrieval(f"hashed, hybrid, {kind}", find, answers, asked[kind]) for kind in (WRITTEN, SLIPPED)]
    assert len(asked[WRITTEN]) >= 60
    assert losses("demo", lines) == []
    assert lines[0].scores["recall@5"] >= 0.95


async def test_what_answers_quote_is_borne_out(documents: Documents, demo: tuple[str, dict[str, str]]) -> None:
    tenant, names = demo

    async def find(query: str) -> SearchResult:
        own = Filter(scope=Scope.TENANT)
        return await documents.index.search(tenant, query, top_k=8, mode=SearchMode.HYBRID, filter=own)

    questions = demo_questions()
    line = await answering(
        "answers, hashed, hybrid", find, partial(answers_of, names), questions[::3] + questions[-12:]
    )
    assert line.scores["support"] >= 0.98
    assert line.scores["answered"] >= 0.8


def test_a_loss_is_told_and_noise_is_not() -> None:
    case = "hashed, hybrid, as written"
    worse = losses("demo", [Line(case, {"recall@1": 0.5, "recall@5": 1.0})])
    assert [sentence.partition(" fell")[0] for sentence in worse] == [f"demo, {case}: recall@1"]
    assert losses("a set nobody kept", [Line(case, {"recall@1": 0.0})]) == []
