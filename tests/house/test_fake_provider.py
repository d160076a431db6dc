"""The fake provider keeps to the protocol that the real client speaks."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.house.fake_provider import (
    CACHED_TOKENS,
    DIMENSIONS,
    PLAIN_ANSWER,
    REASONING_TOKENS,
    SLOW_WORDS,
    FakeProvider,
    fake_provider,
)
from tests.house.waiting import until


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with fake_provider() as provider:
        yield provider


@pytest.fixture
async def client(provider: FakeProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="fake", base_url=provider.base_url, max_retries=0) as client:
        yield client


async def chunks(client: openai.AsyncOpenAI, model: str, question: str = "Quando?") -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "system", "content": "um dois"}, {"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
    )
    return [chunk async for chunk in stream]


def text(received: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in received for choice in chunk.choices)


async def test_usage_comes_in_the_last_chunk(client: openai.AsyncOpenAI) -> None:
    received = await chunks(client, "fake-plain")
    usage = received[-1].usage
    assert text(received) == PLAIN_ANSWER
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, len(PLAIN_ANSWER.split()))
    assert [chunk.usage for chunk in received[:-1]] == [None] * (len(received) - 1)


async def test_cached_and_reasoning_tokens_are_told_when_asked_for(client: openai.AsyncOpenAI) -> None:
    usage = (await chunks(client, "fake-cached"))[-1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == CACHED_TOKENS
    assert usage.completion_tokens_details.reasoning_tokens == REASONING_TOKENS


async def test_the_echo_repeats_the_question(client: openai.AsyncOpenAI) -> None:
    assert text(await chunks(client, "fake-echo", "Até que dia?")) == "Até que dia?"


async def test_a_truncated_stream_has_no_finish_reason(client: openai.AsyncOpenAI) -> None:
    received = await chunks(client, "fake-truncated")
    assert len(text(received).split()) == 3
    assert all(choice.finish_reason is None for chunk in received for choice in chunk.choices)


async def test_an_error_event_reaches_the_client_as_an_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIError, match="the model fell over"):
        await chunks(client, "fake-error-event")


async def test_refusals_have_their_status(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        await chunks(client, "fake-error")
    with pytest.raises(openai.AuthenticationError):
        await chunks(client, "fake-unauthorised")
    with pytest.raises(openai.RateLimitError) as limited:
        await chunks(client, "fake-rate-limited")
    assert limited.value.response.headers["retry-after"] == "7"


async def test_a_flaky_answer_comes_at_the_third_attempt(client: openai.AsyncOpenAI) -> None:
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await chunks(client, "fake-flaky", "de novo?")
    assert text(await chunks(client, "fake-flaky", "de novo?")) == PLAIN_ANSWER


async def test_a_client_that_goes_away_is_noticed(client: openai.AsyncOpenAI, provider: FakeProvider) -> None:
    stream = await client.chat.completions.create(
        model="fake-slow-20", messages=[{"role": "user", "content": "devagar"}], stream=True
    )
    await anext(aiter(stream))
    await stream.close()
    turn = provider.answered[-1]
    await until(lambda: turn.disconnected)
    assert not turn.finished
    assert turn.words_sent < SLOW_WORDS


async def test_a_hanging_answer_hangs(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await chunks(client, "fake-hang")


async def test_equal_texts_have_equal_vectors(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="fake-embedding", input=["coleta de lixo", "IPTU", "coleta de lixo"])
    first, second, third = (entry.embedding for entry in answer.data)
    assert len(first) == DIMENSIONS
    assert first == third
    assert first != second


async def test_vectors_are_the_same_in_either_encoding(client: openai.AsyncOpenAI) -> None:
    as_floats = await client.embeddings.create(model="fake-embedding", input="IPTU", encoding_format="float")
    as_default = await client.embeddings.create(model="fake-embedding", input="IPTU")
    assert as_floats.data[0].embedding == pytest.approx(as_default.data[0].embedding)
