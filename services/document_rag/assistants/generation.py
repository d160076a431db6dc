"""An answer while it is written: from the provider to the reader, until its end, its limit or their parting."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.document_rag.assistants.model import (
    Answer,
    FinishReason,
    ModelPrice,
    OnDisconnect,
    ProviderFailed,
    TokenCount,
    UsageSource,
    cited,
)
from services.document_rag.assistants.prompt import Prompt
from services.document_rag.assistants.providers import Delta, Finish, Sampling
from services.document_rag.assistants.wording import says_not_in_documents
from services.document_rag.tokens import count_tokens


class Stage(Protocol):
    """Whom the pieces of an answer are given to."""

    reader_left: asyncio.Event

    @property
    def delivered_text(self) -> str:
        """The text that counts as said when the answer is cut short."""
        ...

    async def put(self, event: Delta) -> None:
        """Takes the next piece; waits while there is no room for it."""
        ...

    async def heard(self) -> None:
        """Waits for a moment until what was put is on its way."""
        ...


class Backstage:
    """Where an answer is written that nobody reads as it comes. All of it counts; it ends when the reader leaves."""

    def __init__(self, reader_left: asyncio.Event) -> None:
        self.reader_left = reader_left
        self._said: list[str] = []

    @property
    def delivered_text(self) -> str:
        """All that was written."""
        return "".join(self._said)

    async def put(self, event: Delta) -> None:
        """Keeps the piece."""
        self._said.append(event.text)

    async def heard(self) -> None:
        """Nobody listens."""


@dataclass(slots=True)
class Draft:
    """An answer in the making. `ends_with_quota`: its limit is what the quota had left, not what was asked for."""

    prompt: Prompt
    sampling: Sampling
    ends_with_quota: bool
    text: str = ""
    provider_asked: bool = False
    first_piece_at: float | None = None
    finish: Finish | None = None
    source: UsageSource = UsageSource.PROVIDER

    def cut_short(self, reason: FinishReason, text: str) -> None:
        """Ends the answer at `text`: what the provider went on to say does not count."""
        self.text = text
        self.source = UsageSource.PARTIAL
        asked = TokenCount(input=self.prompt.tokens, output=count_tokens(text))
        self.finish = Finish(reason, asked if self.provider_asked else TokenCount(), self.sampling.model)

    def finished(self, began: float, prices: Mapping[str, ModelPrice]) -> Answer:
        """The answer as it will be kept and charged; `began` is when the question arrived, on the monotonic clock."""
        now = time.monotonic()
        if self.finish is None:
            raise ProviderFailed
        tokens = self.finish.tokens or TokenCount(input=self.prompt.tokens, output=count_tokens(self.text))
        at_quota = self.finish.reason is FinishReason.LENGTH and self.ends_with_quota
        price = prices.get(self.finish.model) or prices.get(self.sampling.model, ModelPrice())
        return Answer(
            text=self.text,
            finish_reason=FinishReason.QUOTA if at_quota else self.finish.reason,
            tokens=tokens,
            usage_source=UsageSource.ESTIMATED if self.finish.tokens is None else self.source,
            cost_micros=price.of(tokens),
            model=self.finish.model,
            latency_ms=round((now - began) * 1000),
            time_to_first_token_ms=round(((self.first_piece_at or now) - began) * 1000),
            not_in_documents=says_not_in_documents(self.text) and not cited(self.text, self.prompt.passages),
        )


async def generate(
    draft: Draft,
    pieces: AsyncGenerator[Delta | Finish, None],
    on_disconnect: OnDisconnect,
    stage: Stage,
    timeout_seconds: float,
) -> None:
    """Fills the draft: to its end, or, with STOP, to exactly what a reader who left had been given.

    Raises ProviderFailed when the provider ends without an end or takes longer than `timeout_seconds`.
    """
    if on_disconnect is OnDisconnect.STOP and stage.reader_left.is_set():
        draft.cut_short(FinishReason.INTERRUPTED, "")
        return
    writing = asyncio.create_task(_write(draft, pieces, stage, timeout_seconds))
    leaving = asyncio.create_task(stage.reader_left.wait())
    watched: set[asyncio.Task[object]] = {writing, leaving} if on_disconnect is OnDisconnect.STOP else {writing}
    try:
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        writing.cancel()
        # Waited for and not awaited: a cancellation of this task is never mistaken for the one just asked for.
        await asyncio.wait({writing})
    if writing.cancelled():
        draft.cut_short(FinishReason.INTERRUPTED, stage.delivered_text)
    else:
        writing.result()
        await stage.heard()  # the words first: checking them keeps the processor from sending them


async def _write(
    draft: Draft, pieces: AsyncGenerator[Delta | Finish, None], stage: Stage, timeout_seconds: float
) -> None:
    counter = _OutputCounter(draft.sampling.max_output_tokens)
    draft.provider_asked = True
    try:
        async with asyncio.timeout(timeout_seconds):
            async for piece in pieces:
                if isinstance(piece, Finish):
                    draft.finish = piece
                    return
                if not counter.allows(draft.text, piece.text):
                    draft.cut_short(FinishReason.LENGTH, draft.text)
                    return
                draft.first_piece_at = draft.first_piece_at or time.monotonic()
                draft.text += piece.text
                await stage.put(piece)
    except TimeoutError:
        raise ProviderFailed from None
    raise ProviderFailed


class _OutputCounter:
    """Ends an answer at its limit even if the provider does not keep to it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._at_most = 0

    def allows(self, text: str, piece: str) -> bool:
        # The tokens of the pieces are at least those of the whole, so the whole is counted only near the limit.
        self._at_most += count_tokens(piece)
        if self._at_most > self._limit:
            self._at_most = count_tokens(text + piece)
        return self._at_most <= self._limit
