"""What an endpoint sends is not trusted to be an answer: a proxy, a portal or a fault may stand in its place."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import openai
import pytest

from services.document_rag.assistants.model import Budget, FinishReason, ProviderFailed
from services.document_rag.assistants.openai_provider import OpenAIProvider
from services.document_rag.assistants.prompt import Brief, build_prompt
from services.document_rag.assistants.providers import Delta, Finish, Sampling
from tests.document_rag.passages import found
from tests.house.fake_oddities import NAMES, NO_CHUNKS, USAGES
from tests.house.fake_provider import PLAIN_ANSWER

if TYPE_CHECKING:
    from tests.house.fake_provider import FakeProvider

SILENCE_SECONDS = 600.0


@pytest.fixture
async def endpoint(provider: "FakeProvider") -> AsyncIterator[OpenAIProvider]:
    async with openai.AsyncOpenAI(api_key="fake", base_url=provider.base_url, max_retries=0) as client:
        yield OpenAIProvider(client, SILENCE_SECONDS)


async def answered(endpoint: OpenAIProvider, model: str, temperature: float | None = None) -> tuple[str, Finish]:
    prompt = build_prompt(Brief(), "Qual é o prazo?", [], found(), Budget(100, 100))
    async with asyncio.timeout(60):
        pieces = [piece async for piece in endpoint.answer(prompt, Sampling(model, temperature, 500))]
    finish = pieces.pop()
    assert isinstance(finish, Finish)
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta)), finish


@pytest.mark.parametrize("model", ["fake-page", "fake-hollow", "fake-empty", *NO_CHUNKS])
async def test_what_is_no_answer_is_a_failure_of_the_provider(endpoint: OpenAIProvider, model: str) -> None:
    with pytest.raises(ProviderFailed):
        await answered(endpoint, model)


async def test_a_page_is_refused_before_it_is_read(endpoint: OpenAIProvider) -> None:
    with pytest.raises(ProviderFailed):
        await answered(endpoint, "fake-portal")


@pytest.mark.parametrize("model", USAGES)
async def test_usage_that_is_none_counts_as_not_reported(endpoint: OpenAIProvider, model: str) -> None:
    assert await answered(endpoint, model) == (PLAIN_ANSWER, Finish(FinishReason.STOP, None, model))


@pytest.mark.parametrize("model", NAMES)
async def test_a_name_that_no_model_has_is_left_out(endpoint: OpenAIProvider, model: str) -> None:
    _, finish = await answered(endpoint, model)
    assert finish.model == model


async def test_letters_cut_in_two_become_whole_and_what_is_no_letter_is_shown_as_such(endpoint: OpenAIProvider) -> None:
    text, _ = await answered(endpoint, "fake-odd-torn")
    assert text == f"{PLAIN_ANSWER}😀 fim\ufffd ."


async def test_a_model_that_reasons_answers(endpoint: OpenAIProvider) -> None:
    text, finish = await answered(endpoint, "fake-reasons", temperature=0.2)
    assert (text, finish.reason) == (PLAIN_ANSWER, FinishReason.STOP)
