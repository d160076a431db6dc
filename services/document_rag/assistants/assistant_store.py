"""Keeps assistants in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from services.document_rag.assistants.model import Assistant, AssistantFields
from shared.errors import NotFound, RequestIdReused
from shared.identifiers import new_id
from shared.postgres import tenant_transaction

_COLUMNS = """
    assistant_id, display_name, instructions, model, top_k, temperature, max_output_tokens, document_ids,
    created_at, updated_at
"""
_FIELDS = ("display_name", "instructions", "model", "top_k", "temperature", "max_output_tokens", "document_ids")


class AssistantStore:
    """Every method names its tenant; another tenant's assistant is NotFound."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(self, tenant_id: str, fields: AssistantFields, request_id: str) -> Assistant:
        """The new assistant, or the one that this request_id made before; RequestIdReused for other fields."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"""
                insert into assistants (tenant_id, assistant_id, request_id, fingerprint, {", ".join(_FIELDS)})
                values ($1, $2, nullif($3, ''), $4, $5, $6, $7, $8, $9, $10, $11)
                on conflict (tenant_id, request_id) where request_id is not null do nothing
                returning {_COLUMNS}
                """,  # noqa: S608 constant column names
                tenant_id,
                new_id(),
                request_id,
                fields.fingerprint(),
                *_values(fields),
            )
            row = row or await self._made_before(connection, tenant_id, fields, request_id)
        return _from_row(row)

    async def get(self, tenant_id: str, assistant_id: str) -> Assistant:
        """The assistant; NotFound if there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"select {_COLUMNS} from assistants where tenant_id = $1 and assistant_id = $2 and deleted_at is null",  # noqa: S608
                tenant_id,
                _uuid(assistant_id),
            )
        if row is None:
            raise NotFound("assistant", assistant_id)
        return _from_row(row)

    async def list_newest_first(
        self, tenant_id: str, limit: int, before: tuple[datetime, str] | None
    ) -> list[Assistant]:
        """At most `limit` assistants, after the one created at that time with that id."""
        created_at, assistant_id = before or (None, None)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                f"""
                select {_COLUMNS} from assistants
                where tenant_id = $1 and deleted_at is null
                  and ($2::timestamptz is null or (created_at, assistant_id) < ($2, $3::uuid))
                order by created_at desc, assistant_id desc limit $4
                """,  # noqa: S608 constant column names
                tenant_id,
                created_at,
                assistant_id,
                limit,
            )
        return [_from_row(row) for row in rows]

    async def update(self, tenant_id: str, assistant_id: str, changes: Mapping[str, object]) -> Assistant:
        """The assistant with these fields of AssistantFields changed; NotFound if there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"""
                select {_COLUMNS} from assistants
                where tenant_id = $1 and assistant_id = $2 and deleted_at is null for update
                """,  # noqa: S608 constant column names
                tenant_id,
                _uuid(assistant_id),
            )
            if row is None:
                raise NotFound("assistant", assistant_id)
            fields = AssistantFields(**{name: row[name] for name in _FIELDS} | dict(changes))
            assignments = ", ".join(f"{name} = ${position}" for position, name in enumerate(_FIELDS, start=3))
            row = await connection.fetchrow(
                f"""
                update assistants set {assignments}, updated_at = now()
                where tenant_id = $1 and assistant_id = $2 returning {_COLUMNS}
                """,  # noqa: S608 constant column names
                tenant_id,
                row["assistant_id"],
                *_values(fields),
            )
            assert row is not None  # noqa: S101 locked by the select above
        return _from_row(row)

    async def delete(self, tenant_id: str, assistant_id: str) -> None:
        """Deletes the assistant; NotFound if there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            done = await connection.execute(
                """
                update assistants set deleted_at = now()
                where tenant_id = $1 and assistant_id = $2 and deleted_at is null
                """,
                tenant_id,
                _uuid(assistant_id),
            )
        if done == "UPDATE 0":
            raise NotFound("assistant", assistant_id)

    async def _made_before(
        self, connection: asyncpg.Connection, tenant_id: str, fields: AssistantFields, request_id: str
    ) -> asyncpg.Record:
        row = await connection.fetchrow(
            f"select fingerprint, {_COLUMNS} from assistants where tenant_id = $1 and request_id = $2",  # noqa: S608
            tenant_id,
            request_id,
        )
        if row is None or row["fingerprint"] != fields.fingerprint():
            raise RequestIdReused
        return row


def _values(fields: AssistantFields) -> Sequence[object]:
    return [list(value) if isinstance(value, tuple) else value for value in (getattr(fields, name) for name in _FIELDS)]


def _from_row(row: asyncpg.Record) -> Assistant:
    columns = {name: row[name] for name in Assistant.__slots__}
    return Assistant(**columns | {"assistant_id": str(row["assistant_id"]), "document_ids": tuple(row["document_ids"])})


def _uuid(assistant_id: str) -> UUID:
    try:
        return UUID(assistant_id)
    except ValueError:
        raise NotFound("assistant", assistant_id) from None
