"""Keeps turns in PostgreSQL, so that one request_id makes one turn whatever crashes or repeats."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpg

from services.document_rag.assistants.model import Question
from shared.errors import RequestIdReused, RequestInProgress, ServiceError
from shared.identifiers import new_id
from shared.postgres import tenant_transaction
from shared.steadily import in_background, steadily

_FORGET_EVERY_SECONDS = 3600.0

_BEGIN = """
    insert into turns (tenant_id, user_id, request_id, fingerprint, conversation_id, state, attempt, lease_until)
    values ($1, $2, $3, $4, $5, 'running', 1, now() + make_interval(secs => $6))
    on conflict do nothing returning conversation_id, attempt, answer_seq
"""
_EXISTING = """
    select fingerprint, state, conversation_id, attempt, answer_seq,
           extract(epoch from lease_until - now())::float8 as lease_left
    from turns where tenant_id = $1 and user_id = $2 and request_id = $3 for update
"""
_TAKE_OVER = """
    update turns set state = 'running', attempt = attempt + 1, lease_until = now() + make_interval(secs => $4)
    where tenant_id = $1 and user_id = $2 and request_id = $3
    returning conversation_id, attempt, answer_seq
"""
_RENEW = """
    update turns set lease_until = now() + make_interval(secs => $5)
    where tenant_id = $1 and user_id = $2 and request_id = $3 and attempt = $4 and state = 'running'
"""
_END = """
    update turns set state = $5, answer_seq = $6, lease_until = now()
    where tenant_id = $1 and user_id = $2 and request_id = $3 and attempt = $4 and state = 'running'
"""
_FORGET = "delete from turns where created_at < now() - make_interval(secs => $1)"


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that this process may carry out (`answer_seq` None) or only tell again."""

    tenant_id: str
    user_id: str
    request_id: str
    conversation_id: str
    is_new_conversation: bool
    attempt: int
    answer_seq: int | None

    def key(self, purpose: str) -> str:
        """The request_id under which this turn asks a neighbour for one thing; the same in every attempt."""
        return f"{self.request_id}/{purpose}"


class TurnStore:
    """Leases turns to the processes that carry them out. `lease_seconds` is how long a dead process blocks a retry."""

    def __init__(self, pool: asyncpg.Pool, lease_seconds: float) -> None:
        self._pool = pool
        self._lease_seconds = lease_seconds

    async def begin(self, tenant_id: str, user_id: str, question: Question) -> Turn:
        """A new turn, an abandoned one to go on with, or a finished one.

        Raises RequestInProgress while another process carries it out, RequestIdReused for another question.
        """
        key = (tenant_id, user_id, question.request_id)
        conversation_id = question.conversation_id or new_id()
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                _BEGIN, *key, question.fingerprint(), conversation_id, self._lease_seconds
            ) or await self._again(connection, key, question)
        return Turn(*key, is_new_conversation=not question.conversation_id, **dict(row))

    @asynccontextmanager
    async def carried_out(self, turn: Turn) -> AsyncIterator[None]:
        """Keeps the lease while the block runs; a block that raises leaves the turn failed, free to be retried."""
        async with in_background(self._renew_for_ever(turn)):
            try:
                yield
            except BaseException:
                with suppress(ServiceError):  # the lease ends by itself
                    await self._end(turn, "failed", None)
                raise

    async def done(self, turn: Turn, answer_seq: int) -> None:
        """The turn is answered and charged; a retry tells the answer again."""
        await self._end(turn, "done", answer_seq)

    async def forget(self, older_than_seconds: float) -> None:
        """Deletes old turns of all tenants: their request_ids are free again."""
        async with tenant_transaction(self._pool, "*") as connection:
            await connection.execute(_FORGET, older_than_seconds)

    @asynccontextmanager
    async def forgotten_regularly(self, older_than_seconds: float) -> AsyncIterator[None]:
        """Forgets old turns every hour while the block runs."""
        forget = partial(self.forget, older_than_seconds)
        async with in_background(steadily("forgetting_turns", forget, _FORGET_EVERY_SECONDS)):
            yield

    async def _again(
        self, connection: asyncpg.Connection, key: tuple[str, str, str], question: Question
    ) -> dict[str, Any]:
        row = await connection.fetchrow(_EXISTING, *key)
        if row is None:  # forgotten between the two statements
            raise RequestInProgress
        if row["fingerprint"] != question.fingerprint():
            raise RequestIdReused
        if row["state"] == "done":
            return {name: row[name] for name in ("conversation_id", "attempt", "answer_seq")}
        if row["state"] == "running" and row["lease_left"] > 0:
            raise RequestInProgress(retry_after_seconds=row["lease_left"])
        taken = await connection.fetchrow(_TAKE_OVER, *key, self._lease_seconds)
        assert taken is not None  # noqa: S101 locked by the select above
        return dict(taken)

    async def _end(self, turn: Turn, state: str, answer_seq: int | None) -> None:
        async with tenant_transaction(self._pool, turn.tenant_id) as connection:
            await connection.execute(
                _END, turn.tenant_id, turn.user_id, turn.request_id, turn.attempt, state, answer_seq
            )

    async def _renew_for_ever(self, turn: Turn) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            with suppress(ServiceError):  # the next renewal may succeed, and a lost lease is fenced by the attempt
                async with tenant_transaction(self._pool, turn.tenant_id) as connection:
                    await connection.execute(
                        _RENEW, turn.tenant_id, turn.user_id, turn.request_id, turn.attempt, self._lease_seconds
                    )
