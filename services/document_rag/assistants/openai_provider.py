"""Any OpenAI-compatible chat endpoint as an answer provider, with our own retries inside the turn's deadline."""

import asyncio
import math
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import openai

from services.document_rag.assistants.model import (
    FinishReason,
    ProviderFailed,
    ProviderRateLimited,
    TokenCount,
)
from services.document_rag.assistants.prompt import Prompt
from services.document_rag.assistants.providers import Delta, Finish, Sampling
from shared.telemetry import get_logger

_log = get_logger()

ATTEMPTS = 3
_FIRST_BACKOFF_SECONDS = 0.25
_LONGEST_RETRY_AFTER_SECONDS = 5.0
_LONGEST_WAIT_TOLD_SECONDS = 3600.0
_ASKS_AGAIN = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class OpenAIProvider:
    """Streams chat completions. Retries only before the first piece of the answer arrived."""

    def __init__(self, client: openai.AsyncOpenAI, silence_seconds: float) -> None:
        self._client = client
        self._silence_seconds = silence_seconds

    async def answer(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta | Finish, None]:
        """Yields the model's pieces as they arrive. A stream that ends without finish_reason is a failure."""
        async with aclosing(self._chunks(prompt, sampling)) as chunks:
            reason: FinishReason | None = None
            tokens: TokenCount | None = None
            model = sampling.model
            async for chunk in chunks:
                model = chunk.model or model
                tokens = _tokens(chunk.usage) if chunk.usage else tokens
                for choice in chunk.choices or ():
                    if choice.delta and choice.delta.content:
                        yield Delta(choice.delta.content)
                    if choice.finish_reason:
                        reason = _FINISH_REASONS.get(choice.finish_reason, FinishReason.STOP)
        if reason is None:
            raise ProviderFailed
        yield Finish(reason, tokens, model)

    async def _chunks(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Any, None]:
        try:
            stream = await self._opened(prompt, sampling)
            async with stream:
                iterator = aiter(stream)
                while True:
                    async with asyncio.timeout(self._silence_seconds):
                        chunk = await anext(iterator, None)
                    if chunk is None:
                        return
                    yield chunk
        except openai.RateLimitError as error:
            seconds = min(max(_retry_after(error), 1.0), _LONGEST_WAIT_TOLD_SECONDS)
            raise ProviderRateLimited(seconds) from error
        except (openai.OpenAIError, ValueError, TimeoutError) as error:  # ValueError: a chunk that is no JSON
            # The provider's own words may quote the prompt, so only the kind of failure is logged.
            _log.warning("provider_failed", kind=type(error).__name__, status=getattr(error, "status_code", None))
            raise ProviderFailed from error

    async def _opened(self, prompt: Prompt, sampling: Sampling) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with asyncio.timeout(self._silence_seconds):
                    return await self._client.chat.completions.create(**_request(prompt, sampling))
            except _ASKS_AGAIN as error:
                if attempt == ATTEMPTS or _retry_after(error) > _LONGEST_RETRY_AFTER_SECONDS:
                    raise
                backoff = _FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 jitter
                await asyncio.sleep(max(backoff, _retry_after(error)))
        raise ProviderFailed


def _request(prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
    return {
        "model": sampling.model,
        "messages": [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user_message},
        ],
        "max_tokens": sampling.max_output_tokens,
        "temperature": openai.omit if sampling.temperature is None else sampling.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _tokens(usage: Any) -> TokenCount:
    """The figures made disjoint: providers count cached tokens among the prompt's, reasoning among the answer's."""
    prompt_details, completion_details = usage.prompt_tokens_details, usage.completion_tokens_details
    cached = (prompt_details.cached_tokens if prompt_details else None) or 0
    reasoning = (completion_details.reasoning_tokens if completion_details else None) or 0
    return TokenCount(
        input=max((usage.prompt_tokens or 0) - cached, 0),
        cached_input=cached,
        output=max((usage.completion_tokens or 0) - reasoning, 0),
        reasoning=reasoning,
    )


def _retry_after(error: openai.OpenAIError) -> float:
    """Seconds the provider asks to wait; 0 when it does not say."""
    if not isinstance(error, openai.APIStatusError):
        return 0.0
    headers = error.response.headers
    try:
        in_milliseconds = "retry-after-ms" in headers
        seconds = float(headers["retry-after-ms"]) / 1000 if in_milliseconds else float(headers.get("retry-after", 0))
    except ValueError:  # an HTTP date
        return 1.0
    return seconds if math.isfinite(seconds) else 1.0
