"""Collections in PostgreSQL. A tenant reads its own and the global library's, and writes its own."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import asyncpg

from services.document_rag.ids import uuid_of, uuids
from services.document_rag.model import (
    GLOBAL_LIBRARY,
    Collection,
    CollectionFields,
    CollectionNameTaken,
    CollectionNotEmpty,
    CollectionPlace,
    Filter,
    Scope,
)
from shared.errors import NotFound, RequestIdReused
from shared.identifiers import new_id
from shared.postgres import tenant_transaction

_COLUMNS = """tenant_id, collection_id, display_name, description, embedding_model, dimensions, created_at, updated_at,
    (select count(*) from documents
     where documents.tenant_id = collections.tenant_id and documents.collection_id = collections.collection_id
       and documents.deleted_at is null) as document_count"""

_CREATE = f"""
    insert into collections (tenant_id, collection_id, request_id, fingerprint, display_name, description,
                             embedding_model, dimensions)
    values ($1, $2, nullif($3, ''), $4, $5, $6, $7, $8)
    on conflict (tenant_id, request_id) where request_id is not null do nothing
    returning {_COLUMNS}
"""  # noqa: S608  (columns of ours)

# Own collections first, then the library's, each by name.
_LIST = f"""
    select {_COLUMNS} from collections
    where tenant_id = any($1::text[]) and deleted_at is null
      and ($2::boolean is null or (tenant_id = $4, display_name, collection_id) > ($2, $3, $5::uuid))
    order by tenant_id = $4, display_name, collection_id
    limit $6
"""  # noqa: S608

_UPDATE = f"""
    update collections set display_name = coalesce($3, display_name), description = coalesce($4, description),
                           updated_at = now()
    where tenant_id = $1 and collection_id = $2 and deleted_at is null
    returning {_COLUMNS}
"""  # noqa: S608


class CollectionStore:
    """Every method names its tenant; another tenant's collection is NotFound."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(self, tenant_id: str, fields: CollectionFields, request_id: str) -> Collection:
        """The new collection, or the one that this request_id made before.

        RequestIdReused for other fields, CollectionNameTaken if another one has the name.
        """
        async with tenant_transaction(self._pool, tenant_id) as connection:
            try:
                async with connection.transaction():
                    row = await connection.fetchrow(
                        _CREATE, tenant_id, new_id(), request_id, fields.fingerprint(), *fields.values()
                    )
            except asyncpg.UniqueViolationError:
                row = None
            return _collection(row or await _made_before(connection, tenant_id, fields, request_id))

    async def get(self, tenant_id: str, collection_id: str) -> Collection:
        """The collection, of the tenant or of the library; NotFound if there is none."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            row = await connection.fetchrow(
                f"select {_COLUMNS} from collections"  # noqa: S608
                " where tenant_id = any($1::text[]) and collection_id = $2 and deleted_at is null",
                [tenant_id, GLOBAL_LIBRARY],
                uuid_of(collection_id),
            )
        if row is None:
            raise NotFound("collection", collection_id)
        return _collection(row)

    async def require(self, tenant_id: str, collection_ids: Sequence[str]) -> None:
        """NotFound for the first of the collections that the tenant cannot read, be it foreign or missing."""
        if not collection_ids:
            return
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                "select collection_id::text from collections"
                " where tenant_id = any($1::text[]) and collection_id = any($2::uuid[]) and deleted_at is null",
                [tenant_id, GLOBAL_LIBRARY],
                uuids(collection_ids),
            )
        known = {row["collection_id"] for row in rows}
        for each in collection_ids:
            if each.lower() not in known:
                raise NotFound("collection", each)

    async def list(
        self, tenant_id: str, *, scope: Scope | None, after: CollectionPlace | None, limit: int
    ) -> Sequence[Collection]:
        """Collections after the one given, or the first ones: the tenant's, then the library's, each by name."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            rows = await connection.fetch(
                _LIST,
                list(Filter(scope=scope).libraries(tenant_id)),
                after.scope is Scope.GLOBAL if after else None,
                after.display_name if after else None,
                GLOBAL_LIBRARY,
                UUID(after.collection_id) if after else None,
                limit,
            )
        return [_collection(row) for row in rows]

    async def update(self, tenant_id: str, collection_id: str, changes: Mapping[str, str]) -> Collection:
        """The collection with its new display_name or description. NotFound, CollectionNameTaken."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            try:
                row = await connection.fetchrow(
                    _UPDATE, tenant_id, uuid_of(collection_id), changes.get("display_name"), changes.get("description")
                )
            except asyncpg.UniqueViolationError:
                raise CollectionNameTaken("collection", changes["display_name"]) from None
        if row is None:
            raise NotFound("collection", collection_id)
        return _collection(row)

    async def documents_of(self, tenant_id: str, collection_id: str) -> Sequence[str]:
        """The documents in the collection. NotFound if the tenant does not own it."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _locked(connection, tenant_id, collection_id)
            rows = await connection.fetch(
                "select document_id from documents"
                " where tenant_id = $1 and collection_id = $2 and deleted_at is null order by document_id",
                tenant_id,
                uuid_of(collection_id),
            )
        return [str(row["document_id"]) for row in rows]

    async def delete(self, tenant_id: str, collection_id: str, *, with_chunks: bool = False) -> None:
        """Leaves a tombstone. NotFound if the tenant does not own it, CollectionNotEmpty while it holds documents, or
        chunks that programs pushed and that are not to go with it."""
        async with tenant_transaction(self._pool, tenant_id) as connection:
            await _locked(connection, tenant_id, collection_id)
            held = await connection.fetchval(
                "select count(*) from documents where tenant_id = $1 and collection_id = $2 and deleted_at is null",
                tenant_id,
                uuid_of(collection_id),
            )
            if with_chunks:
                await connection.execute(
                    "delete from pushed_chunks where tenant_id = $1 and collection_id = $2",
                    tenant_id,
                    uuid_of(collection_id),
                )
            chunks = await connection.fetchval(
                "select count(*) from pushed_chunks where tenant_id = $1 and collection_id = $2",
                tenant_id,
                uuid_of(collection_id),
            )
            if held or chunks:
                raise CollectionNotEmpty(held, chunks)
            await connection.execute(
                "update collections set deleted_at = now(), display_name = '', description = ''"
                " where tenant_id = $1 and collection_id = $2",
                tenant_id,
                uuid_of(collection_id),
            )


async def _locked(connection: asyncpg.Connection, tenant_id: str, collection_id: str) -> None:
    """Whoever puts a document into a collection holds its row in share: a deletion and an upload never cross."""
    found = await connection.fetchval(
        "select true from collections where tenant_id = $1 and collection_id = $2 and deleted_at is null for update",
        tenant_id,
        uuid_of(collection_id),
    )
    if not found:
        raise NotFound("collection", collection_id)


async def _made_before(
    connection: asyncpg.Connection, tenant_id: str, fields: CollectionFields, request_id: str
) -> asyncpg.Record:
    row = await connection.fetchrow(
        f"select fingerprint, {_COLUMNS} from collections where tenant_id = $1 and request_id = $2",  # noqa: S608
        tenant_id,
        request_id,
    )
    if row is None:
        raise CollectionNameTaken("collection", fields.display_name)
    if row["fingerprint"] != fields.fingerprint():
        raise RequestIdReused
    return row


def _collection(row: asyncpg.Record) -> Collection:
    return Collection(
        collection_id=str(row["collection_id"]),
        display_name=row["display_name"],
        description=row["description"],
        scope=Scope.GLOBAL if row["tenant_id"] == GLOBAL_LIBRARY else Scope.TENANT,
        embedding_model=row["embedding_model"],
        dimensions=row["dimensions"],
        document_count=row["document_count"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
