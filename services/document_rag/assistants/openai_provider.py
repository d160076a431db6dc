"""Any OpenAI-compatible chat endpoint as an answer provider, with our own retries inside the turn's deadline."""

import asyncio
import codecs
import math
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
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
from shared.chat_completions import ChatCompletions
from shared.telemetry import get_logger

_log = get_logger()

ATTEMPTS = 3
_FIRST_BACKOFF_SECONDS = 0.25
_LONGEST_RETRY_AFTER_SECONDS = 5.0
_LONGEST_WAIT_TOLD_SECONDS = 3600.0
_MOST_TOKENS = 100_000_000  # of one answer; more is no figure of a model's
_LONGEST_PIECE = 1_000  # characters; models send words, but nothing keeps an endpoint from sending megabytes at once
_LONGEST_NAME = 200  # of a model, as tenant_quota and chat_store keep it
_ASKS_AGAIN = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
# What reading an event comes to that is no chunk: no JSON, or JSON of another shape.
_NO_CHUNK = (AttributeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class _Event:
    """What one event says. `tokens` None: nothing of what was used, `model` "": nothing of who answers."""

    text: str
    reason: FinishReason | None
    tokens: TokenCount | None
    model: str


class _PageError(Exception):
    """The answer is a page for people: a proxy's, a portal's, or that of a wrong address."""


class OpenAIProvider:
    """Streams chat completions. Retries only before the first piece of the answer arrived."""

    def __init__(self, client: openai.AsyncOpenAI, silence_seconds: float) -> None:
        self._completions = ChatCompletions(client)
        self._silence_seconds = silence_seconds

    async def answer(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta | Finish, None]:
        """Yields the model's pieces as they arrive, large ones in parts: whoever counts them stops at the limit.

        A stream that ends without finish_reason is a failure, and so is a whole answer without a word.
        """
        reason: FinishReason | None = None
        has_words = False
        tokens: TokenCount | None = None
        model, whole_letters = sampling.model, codecs.getincrementaldecoder("utf-16-le")("replace")
        async with aclosing(self._events(prompt, sampling)) as events:
            async for event in events:
                model, tokens, reason = event.model or model, event.tokens or tokens, event.reason or reason
                text = whole_letters.decode(event.text.encode("utf-16-le", "surrogatepass")).replace("\0", "")
                has_words = has_words or bool(text.strip())
                for start in range(0, len(text), _LONGEST_PIECE):
                    yield Delta(text[start : start + _LONGEST_PIECE])
        if reason is None or (reason is FinishReason.STOP and not has_words):
            raise ProviderFailed
        yield Finish(reason, tokens, model)

    async def _events(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[_Event, None]:
        try:
            stream = await self._opened(prompt, sampling)
            async with stream:
                _refuse_page(stream.response.headers.get("content-type", ""))
                iterator = aiter(stream)
                while True:
                    async with asyncio.timeout(self._silence_seconds):
                        chunk = await anext(iterator, None)
                    if chunk is None:
                        return
                    yield _event_of(chunk)
        except openai.RateLimitError as error:
            seconds = min(max(_retry_after(error), 1.0), _LONGEST_WAIT_TOLD_SECONDS)
            raise ProviderRateLimited(seconds) from error
        except (openai.OpenAIError, TimeoutError, _PageError, *_NO_CHUNK) as error:
            # The provider's own words may quote the prompt, so only the kind of failure is logged.
            _log.warning("provider_failed", kind=type(error).__name__, status=getattr(error, "status_code", None))
            raise ProviderFailed from error

    async def _opened(self, prompt: Prompt, sampling: Sampling) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with asyncio.timeout(self._silence_seconds):
                    return await self._completions.create(**_request(prompt, sampling))
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


def _refuse_page(content_type: str) -> None:
    if content_type.lower().startswith("text/html"):
        raise _PageError


def _event_of(chunk: Any) -> _Event:
    """Reads a chunk, in which nothing need be what it should be; raises one of _NO_CHUNK when it is none."""
    choices = chunk.choices or ()
    reasons = [_FINISH_REASONS.get(each.finish_reason, FinishReason.STOP) for each in choices if each.finish_reason]
    named = isinstance(chunk.model, str) and chunk.model.isprintable() and len(chunk.model) <= _LONGEST_NAME
    return _Event(
        text="".join(each.delta.content or "" for each in choices if each.delta),
        reason=reasons[-1] if reasons else None,
        tokens=_tokens(chunk.usage) if chunk.usage else None,
        model=chunk.model if named else "",
    )


def _tokens(usage: Any) -> TokenCount | None:
    """The figures made disjoint: providers count cached tokens among the prompt's, reasoning among the answer's.

    None when they are no figures.
    """
    try:
        prompt_details, completion_details = usage.prompt_tokens_details, usage.completion_tokens_details
        cached = _figure(prompt_details.cached_tokens if prompt_details else None)
        reasoning = _figure(completion_details.reasoning_tokens if completion_details else None)
        return TokenCount(
            input=max(_figure(usage.prompt_tokens) - cached, 0),
            cached_input=cached,
            output=max(_figure(usage.completion_tokens) - reasoning, 0),
            reasoning=reasoning,
        )
    except _NO_CHUNK:
        return None


def _figure(stated: Any) -> int:
    if stated is None:
        return 0
    if not isinstance(stated, int) or not 0 <= stated <= _MOST_TOKENS:
        raise ValueError
    return stated


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
