"""Keeps assistants in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from services.document_rag.assistants.columns import names_of, places_of, values_of
from services.document_rag.assistants.model import Assistant, AssistantFields
from services.document_rag.ids import required_uuid, uuid_of
from services.document_rag.model import SearchMode
from shared.errors import NotFound, RequestIdReused
from shared.identifiers import new_id
from shared.postgres import tenant_transaction

_FIELDS = names_of(AssistantFields)
_PLACES = places_of(AssistantFields, first=5)
_COLUMNS = ", ".join(("assistant_id", *_FIELDS, "created_at", "updated_at"))


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
                values ($1, $2, nullif($3, ''), $4, {_PLACES})
                on conflict (tenant_id, request_id) where request_id is not null do nothing
                returning {_COLUMNS}
                """,  # noqa: S608 constant column names
                tenant_id,
                new_id(),
                request_id,
                fields.fingerprint(),
                *values_of(fields),
            )
            row = row or await self._made_before(connection, tenant_id, fields, request_id)
        return _from_row(row)

    async def get(self, tenant_id: str, assistant_id: str) -> Assistant:
        """The assistant; NotFound if there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"select {_COLUMNS} from assistants where tenant_id = $1 and assistant_id = $2 and deleted_at is null",  # noqa: S608
                tenant_id,
                required_uuid("assistant", assistant_id),
            )
        if row is None:
            raise NotFound("assistant", assistant_id)
        return _from_row(row)

    async def get_all(self, tenant_id: str, assistant_ids: Sequence[str]) -> dict[str, Assistant]:
        """Those of the assistants that exist, by the ids as given."""
        wanted = {given: parsed for given in assistant_ids if (parsed := uuid_of(given))}
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                f"""
                select {_COLUMNS} from assistants
                where tenant_id = $1 and assistant_id = any($2::uuid[]) and deleted_at is null
                """,  # noqa: S608 constant column names
                tenant_id,
                list(wanted.values()),
            )
        found = {row["assistant_id"]: _from_row(row) for row in rows}
        return {given: found[parsed] for given, parsed in wanted.items() if parsed in found}

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
                required_uuid("assistant", assistant_id),
            )
            if row is None:
                raise NotFound("assistant", assistant_id)
            fields = AssistantFields(**_fields_of(row) | dict(changes))
            assignments = ", ".join(f"{name} = ${position}" for position, name in enumerate(_FIELDS, start=3))
            row = await connection.fetchrow(
                f"""
                update assistants set {assignments}, updated_at = now()
                where tenant_id = $1 and assistant_id = $2 returning {_COLUMNS}
                """,  # noqa: S608 constant column names
                tenant_id,
                row["assistant_id"],
                *values_of(fields),
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
                required_uuid("assistant", assistant_id),
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


def _from_row(row: asyncpg.Record) -> Assistant:
    return Assistant(
        assistant_id=str(row["assistant_id"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        **_fields_of(row),
    )


def _fields_of(row: asyncpg.Record) -> dict[str, Any]:
    columns = {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in _FIELDS}
    return columns | {"search_mode": SearchMode(row["search_mode"])}
