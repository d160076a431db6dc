"""The words an endpoint is asked in: the older ones first, others for a model that refuses them."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import openai
import pytest

from shared.chat_completions import ChatCompletions
from tests.house.fake_provider import PLAIN_ANSWER

if TYPE_CHECKING:
    from tests.house.fake_provider import FakeProvider


@pytest.fixture
async def completions(provider: "FakeProvider") -> AsyncIterator[ChatCompletions]:
    async with openai.AsyncOpenAI(api_key="fake", base_url=provider.base_url, max_retries=0) as client:
        yield ChatCompletions(client)


async def asked(completions: ChatCompletions, model: str, **more: Any) -> str:
    messages = [{"role": "user", "content": "Qual é o prazo?"}]
    answer = await completions.create(model=model, messages=messages, max_tokens=100, **more)
    return str(answer.choices[0].message.content)


async def test_a_model_that_reasons_is_asked_in_its_own_words_and_refuses_once(
    completions: ChatCompletions, provider: "FakeProvider"
) -> None:
    before = len(provider.answered)
    assert await asked(completions, "fake-reasons", temperature=0.2) == PLAIN_ANSWER
    assert await asked(completions, "fake-reasons", temperature=0.2) == PLAIN_ANSWER
    finished = [each.finished for each in provider.answered[before:]]
    assert finished == [False, False, True, True]


async def test_what_is_refused_for_another_reason_is_the_callers(
    completions: ChatCompletions, provider: "FakeProvider"
) -> None:
    before = len(provider.answered)
    with pytest.raises(openai.AuthenticationError):
        await asked(completions, "fake-unauthorised")
    with pytest.raises(openai.BadRequestError):
        await asked(completions, "fake-picky", top_p=0.5)
    assert len(provider.answered) == before + 2
