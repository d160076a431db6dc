"""Keeps teams in PostgreSQL, and finds the assistants that are in them."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import asyncpg

from services.document_rag.assistants.assistant_store import AssistantStore
from services.document_rag.assistants.columns import names_of, places_of, values_of
from services.document_rag.assistants.team_model import (
    OnMemberFailure,
    Strategy,
    Team,
    TeamFields,
    TeamMemberUnknown,
    people_of,
)
from services.document_rag.ids import required_uuid
from services.document_rag.model import GLOBAL_LIBRARY
from shared.errors import NotFound, RequestIdReused
from shared.identifiers import new_id
from shared.postgres import tenant_transaction

_FIELDS = names_of(TeamFields)
_COLUMNS = ", ".join(("team_id", *_FIELDS, "created_at", "updated_at"))
_PLACES = places_of(TeamFields, first=5)


class TeamStore:
    """Every method names its tenant; another tenant's team is NotFound."""

    def __init__(self, pool: asyncpg.Pool, assistants: AssistantStore) -> None:
        self._pool = pool
        self._assistants = assistants

    async def create(self, tenant_id: str, fields: TeamFields, request_id: str) -> Team:
        """The new team, or the one that this request_id made before; RequestIdReused for other fields."""
        await self._require_people(tenant_id, {name: getattr(fields, name) for name in _FIELDS})
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"""
                insert into teams (tenant_id, team_id, request_id, fingerprint, {", ".join(_FIELDS)})
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
            row = row or await _made_before(connection, tenant_id, fields, request_id)
        return _from_row(row)

    async def get(self, tenant_id: str, team_id: str) -> Team:
        """The team; NotFound if there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"select {_COLUMNS} from teams where tenant_id = $1 and team_id = $2 and deleted_at is null",  # noqa: S608
                tenant_id,
                required_uuid("team", team_id),
            )
        if row is None:
            raise NotFound("team", team_id)
        return _from_row(row)

    async def list_newest_first(self, tenant_id: str, limit: int, before: tuple[datetime, str] | None) -> list[Team]:
        """At most `limit` teams, after the one created at that time with that id."""
        created_at, team_id = before or (None, None)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                f"""
                select {_COLUMNS} from teams
                where tenant_id = $1 and deleted_at is null
                  and ($2::timestamptz is null or (created_at, team_id) < ($2, $3::uuid))
                order by created_at desc, team_id desc limit $4
                """,  # noqa: S608 constant column names
                tenant_id,
                created_at,
                team_id,
                limit,
            )
        return [_from_row(row) for row in rows]

    async def update(self, tenant_id: str, team_id: str, changes: Mapping[str, object]) -> Team:
        """The team with these fields of TeamFields changed; NotFound if there is none."""
        await self._require_people(tenant_id, changes)
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"""
                select {_COLUMNS} from teams
                where tenant_id = $1 and team_id = $2 and deleted_at is null for update
                """,  # noqa: S608 constant column names
                tenant_id,
                required_uuid("team", team_id),
            )
            if row is None:
                raise NotFound("team", team_id)
            fields = dataclasses.replace(_from_row(row).fields, **dict(changes))  # type: ignore[arg-type]
            assignments = ", ".join(f"{name} = ${position}" for position, name in enumerate(_FIELDS, start=3))
            row = await connection.fetchrow(
                f"""
                update teams set {assignments}, updated_at = now()
                where tenant_id = $1 and team_id = $2 returning {_COLUMNS}
                """,  # noqa: S608 constant column names
                tenant_id,
                row["team_id"],
                *values_of(fields),
            )
            assert row is not None  # noqa: S101 locked by the select above
        return _from_row(row)

    async def delete(self, tenant_id: str, team_id: str) -> None:
        """Deletes the team; NotFound if there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            done = await connection.execute(
                "update teams set deleted_at = now() where tenant_id = $1 and team_id = $2 and deleted_at is null",
                tenant_id,
                required_uuid("team", team_id),
            )
        if done == "UPDATE 0":
            raise NotFound("team", team_id)

    async def collection_texts(self, tenant_id: str, collection_ids: Sequence[str]) -> dict[str, str]:
        """Name and description of those of the collections that the tenant can read, by their ids."""
        if not collection_ids:
            return {}
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                """
                select collection_id::text, display_name || ' ' || description as text from collections
                where tenant_id = any($1::text[]) and collection_id::text = any($2::text[]) and deleted_at is null
                """,
                [tenant_id, GLOBAL_LIBRARY],
                [each.lower() for each in collection_ids],
            )
        found = {row["collection_id"]: row["text"] for row in rows}
        return {each: found[each.lower()] for each in collection_ids if each.lower() in found}

    async def _require_people(self, tenant_id: str, stated: Mapping[str, Any]) -> None:
        """TeamMemberUnknown naming who is no assistant of the tenant, among the fields that are stated.

        Before the transaction, for it takes a connection of its own.
        """
        named = list(people_of(stated))
        known = await self._assistants.get_all(tenant_id, [each for _, each in named]) if named else {}
        unknown = [name for name, each in named if each not in known]
        if unknown:
            raise TeamMemberUnknown(unknown)


async def _made_before(
    connection: asyncpg.Connection, tenant_id: str, fields: TeamFields, request_id: str
) -> asyncpg.Record:
    row = await connection.fetchrow(
        f"select fingerprint, {_COLUMNS} from teams where tenant_id = $1 and request_id = $2",  # noqa: S608
        tenant_id,
        request_id,
    )
    if row is None or row["fingerprint"] != fields.fingerprint():
        raise RequestIdReused
    return row


def _from_row(row: asyncpg.Record) -> Team:
    columns: dict[str, Any] = {name: row[name] for name in _FIELDS}
    kept = {
        "member_ids": tuple(row["member_ids"]),
        "strategy": Strategy(row["strategy"]),
        "on_member_failure": OnMemberFailure(row["on_member_failure"]),
    }
    return Team(str(row["team_id"]), TeamFields(**columns | kept), row["created_at"], row["updated_at"])
