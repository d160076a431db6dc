"""Collections and the global library: who sees them, who writes them, and what becomes of what is in them."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from prosa.document_rag.v1 import collection_service_pb2 as pb
from prosa.document_rag.v1 import document_service_pb2 as documents_pb2
from prosa.document_rag.v1 import filter_pb2, search_service_pb2
from prosa.document_rag.v1.collection_service_pb2_grpc import CollectionServiceStub
from services.document_rag.__main__ import Documents
from services.document_rag.model import GLOBAL_LIBRARY
from shared.postgres import tenant_transaction
from tests.document_rag.chunk_program import reason_of
from tests.document_rag.conftest import Client
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys

if TYPE_CHECKING:
    from prosa.document_rag.v1.collection_service_pb2_grpc import CollectionServiceAsyncStub

GLOBAL = filter_pb2.SCOPE_GLOBAL
OWN = filter_pb2.SCOPE_TENANT


@pytest.fixture
def collections(document_channel: grpc.aio.Channel) -> "CollectionServiceAsyncStub":
    """CollectionService behind the whole street."""
    return CollectionServiceStub(document_channel)


@pytest.fixture
def platform(document_channel: grpc.aio.Channel, signing_keys: SigningKeys) -> Client:
    """The platform's administrator, who alone writes the global library."""
    scopes = ("documents.read", "documents.write", "library.write")
    return Client(document_channel, as_caller(token(signing_keys, tenant_id="", scopes=scopes)))


async def create(stub: "CollectionServiceAsyncStub", client: Client, name: str, **more: Any) -> pb.Collection:
    request = pb.CreateCollectionRequest(collection=pb.Collection(display_name=name, **more))
    return await stub.CreateCollection(request, metadata=client.metadata)


async def search(client: Client, query: str, **wanted: Any) -> search_service_pb2.SearchResponse:
    request = search_service_pb2.SearchRequest(query=query, **wanted)
    return await client.search_service.Search(request, metadata=client.metadata)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), reason_of(raised.value).reason


async def test_a_collection_lives_and_its_documents_are_found_through_it(
    collections: "CollectionServiceAsyncStub", client: Client
) -> None:
    made = await create(collections, client, "Editais", description="de 2027")
    inside = await client.upload(b"O edital da creche abre em marco.", "a.txt", collection_id=made.collection_id)
    await client.upload(b"O edital da ponte abre em abril.", "b.txt")
    found = await search(client, "edital", collection_ids=[made.collection_id])
    assert [passage.document_id for passage in found.passages] == [inside.document.document_id]
    assert found.passages[0].collection_id == made.collection_id
    got = await collections.GetCollection(
        pb.GetCollectionRequest(collection_id=made.collection_id), metadata=client.metadata
    )
    assert (got.display_name, got.description, got.scope, got.document_count) == ("Editais", "de 2027", OWN, 1)
    request = pb.UpdateCollectionRequest(
        collection_id=made.collection_id,
        collection=pb.Collection(display_name="Novos"),
        update_mask=FieldMask(paths=["display_name"]),
    )
    changed = await collections.UpdateCollection(request, metadata=client.metadata)
    assert (changed.display_name, changed.description) == ("Novos", "de 2027")


async def test_a_collection_that_holds_documents_is_deleted_only_with_them(
    collections: "CollectionServiceAsyncStub", client: Client
) -> None:
    made = await create(collections, client, "Leis")
    await client.upload("A lei do silêncio vale à noite.".encode(), "a.txt", collection_id=made.collection_id)
    request = pb.DeleteCollectionRequest(collection_id=made.collection_id)
    held = await refused(collections.DeleteCollection(request, metadata=client.metadata))
    assert held == (grpc.StatusCode.FAILED_PRECONDITION, "COLLECTION_NOT_EMPTY")
    assert (await search(client, "silêncio")).passages
    request.delete_documents = True
    await collections.DeleteCollection(request, metadata=client.metadata)
    assert not (await search(client, "silêncio")).passages
    assert await refused(collections.DeleteCollection(request, metadata=client.metadata)) == (
        grpc.StatusCode.NOT_FOUND,
        "RESOURCE_NOT_FOUND",
    )
    assert (await create(collections, client, "Leis")).collection_id != made.collection_id, "the name is free again"


async def test_names_are_unique_and_a_retry_makes_one_collection(
    collections: "CollectionServiceAsyncStub", client: Client, client_of: Callable[[str], Client]
) -> None:
    request = pb.CreateCollectionRequest(collection=pb.Collection(display_name="Atas"), request_id="r1")
    calls = (collections.CreateCollection(request, metadata=client.metadata) for _ in range(8))
    assert len({made.collection_id for made in await asyncio.gather(*calls)}) == 1
    taken = await refused(create(collections, client, "Atas"))
    assert taken == (grpc.StatusCode.ALREADY_EXISTS, "COLLECTION_NAME_TAKEN")
    other = pb.CreateCollectionRequest(collection=pb.Collection(display_name="Outras"), request_id="r1")
    reused = await refused(collections.CreateCollection(other, metadata=client.metadata))
    assert reused == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    await create(collections, client_of(f"tenant-{uuid4()}"), "Atas")


async def test_a_foreign_collection_answers_as_a_missing_one(
    collections: "CollectionServiceAsyncStub", client: Client, client_of: Callable[[str], Client]
) -> None:
    made = await create(collections, client, "Sigilosos")
    stranger = client_of(f"tenant-{uuid4()}")
    for collection_id in (made.collection_id, str(uuid4()), "no-uuid"):
        get = pb.GetCollectionRequest(collection_id=collection_id)
        missing = (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
        assert await refused(collections.GetCollection(get, metadata=stranger.metadata)) == missing
        assert await refused(search(stranger, "sigilo", collection_ids=[collection_id])) == missing
        assert await refused(stranger.upload(b"Um texto.", "a.txt", collection_id=collection_id)) == missing


async def test_collections_are_listed_by_name_page_by_page_own_before_the_librarys(
    collections: "CollectionServiceAsyncStub", client: Client, platform: Client
) -> None:
    shared = await create(collections, platform, f"Aaa {uuid4()}", scope=GLOBAL)
    for name in ("b", "a", "c"):
        await create(collections, client, name)
    names, page_token = [], ""
    while True:
        request = pb.ListCollectionsRequest(page_size=2, page_token=page_token)
        page = await collections.ListCollections(request, metadata=client.metadata)
        names += [each.display_name for each in page.collections]
        page_token = page.next_page_token
        if not page_token:
            break
    assert names[:3] == ["a", "b", "c"]
    assert shared.display_name in names[3:]
    only = pb.ListCollectionsRequest(scope=OWN)
    assert len((await collections.ListCollections(only, metadata=client.metadata)).collections) == 3


async def test_every_tenant_reads_the_global_library_and_only_the_platform_writes_it(
    collections: "CollectionServiceAsyncStub",
    client: Client,
    client_of: Callable[[str], Client],
    platform: Client,
    documents: Documents,
) -> None:
    word = f"zarabatana{uuid4().hex[:8]}"
    shared = (await platform.upload(f"A {word} é proibida.".encode(), "lei.txt", scope=GLOBAL)).document
    own = (await client.upload(f"Nossa {word} é outra.".encode(), "nota.txt")).document
    stranger = client_of(f"tenant-{uuid4()}")

    async def seen(who: Client, **wanted: Any) -> set[str]:
        return {passage.document_id for passage in (await search(who, word, **wanted)).passages}

    for mode in (search_service_pb2.SEARCH_MODE_KEYWORD, search_service_pb2.SEARCH_MODE_HYBRID):
        assert {shared.document_id, own.document_id} <= await seen(client, mode=mode)
    assert shared.document_id not in await seen(client, scope=OWN)
    assert own.document_id not in await seen(client, scope=GLOBAL)
    assert own.document_id not in await seen(stranger)
    assert shared.document_id in await seen(stranger)
    assert own.document_id not in await seen(platform)

    denied = (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
    assert await refused(client.upload(b"Um texto.", "a.txt", scope=GLOBAL)) == denied
    assert await refused(create(collections, client, "x", scope=GLOBAL)) == denied
    assert await refused(platform.upload(b"Um texto.", "a.txt")) == denied
    request = documents_pb2.DeleteDocumentRequest(document_id=shared.document_id)
    assert (await refused(client.documents.DeleteDocument(request, metadata=client.metadata)))[0] in (
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
    )
    assert shared.document_id in await seen(client), "and it is still there"
    await platform.documents.DeleteDocument(request, metadata=platform.metadata)
    assert shared.document_id not in await seen(client), "what is deleted is never found again"


@pytest.mark.parametrize(
    "statement",
    [
        "update documents set title = 'x' where tenant_id = '~library'",
        "delete from chunks where tenant_id = '~library'",
        "update totals set chunks = 0 where tenant_id = '~library'",
        "update collections set description = 'x' where tenant_id = '~library'",
    ],
)
async def test_row_level_security_keeps_a_tenant_from_writing_the_library(
    documents: Documents, platform: Client, collections: "CollectionServiceAsyncStub", tenant_id: str, statement: str
) -> None:
    shared = (await platform.upload(f"Texto {uuid4()}.".encode(), "a.txt", scope=GLOBAL)).document
    await create(collections, platform, f"Acervo {uuid4()}", scope=GLOBAL)
    async with tenant_transaction(documents.pool, tenant_id) as connection:
        assert (await connection.execute(statement)).endswith(" 0")
    async with tenant_transaction(documents.pool, GLOBAL_LIBRARY) as connection:
        assert not (await connection.execute(statement.replace("x", "y"))).endswith(" 0"), "the library itself may"
        await connection.execute("rollback")
    request = documents_pb2.DeleteDocumentRequest(document_id=shared.document_id)
    await platform.documents.DeleteDocument(request, metadata=platform.metadata)


async def test_row_level_security_lets_nobody_add_to_the_library(documents: Documents, tenant_id: str) -> None:
    async with documents.pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('app.tenant', $1, true)", tenant_id)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("insert into totals (tenant_id, chunks, terms) values ('~library', 1, 1)")
        await connection.execute("rollback")
