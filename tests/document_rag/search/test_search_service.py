"""Search over the wire: filters with their types, ready vectors, reranking, and what is refused."""

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from prosa.document_rag.v1 import filter_pb2
from prosa.document_rag.v1 import search_service_pb2 as pb
from services.document_rag.search.embedders import DIMENSIONS, HashedEmbedder
from tests.document_rag.conftest import Client


async def search(client: Client, **wanted: Any) -> pb.SearchResponse:
    return await client.search_service.Search(pb.SearchRequest(**wanted), metadata=client.metadata)


def condition(field: str, comparison: str, *values: filter_pb2.MetadataValue) -> filter_pb2.MetadataCondition:
    number = filter_pb2.Comparison.Value(f"COMPARISON_{comparison}")
    return filter_pb2.MetadataCondition(field=field, comparison=number, values=values)


def moment(year: int) -> filter_pb2.MetadataValue:
    stamp = Timestamp()
    stamp.FromDatetime(datetime(year, 1, 1, tzinfo=UTC))
    return filter_pb2.MetadataValue(time_value=stamp)


@pytest.fixture
async def decrees(client: Client) -> dict[str, str]:
    """Two decrees; their ids by the year they are of."""
    ids = {}
    for year in (2026, 2027):
        text = f"O decreto de {year} trata das feiras livres do município."
        metadata = {"ano": year, "vigente": year == 2027, "assinado": f"{year}-06-30", "setor": "feiras"}
        uploaded = await client.upload(text.encode(), f"{year}.txt", metadata=metadata)
        ids[str(year)] = uploaded.document.document_id
    return ids


@pytest.mark.parametrize(
    ("wanted", "years"),
    [
        (condition("ano", "GTE", filter_pb2.MetadataValue(number_value=2027)), {"2027"}),
        (condition("vigente", "EQ", filter_pb2.MetadataValue(bool_value=False)), {"2026"}),
        (condition("assinado", "LT", moment(2027)), {"2026"}),
        (condition("setor", "IN", filter_pb2.MetadataValue(string_value="feiras")), {"2026", "2027"}),
        (condition("setor", "UNSPECIFIED", filter_pb2.MetadataValue(string_value="obras")), set()),
        (condition("ano", "EXISTS"), {"2026", "2027"}),
    ],
)
async def test_conditions_keep_their_types_over_the_wire(
    client: Client, decrees: dict[str, str], wanted: filter_pb2.MetadataCondition, years: set[str]
) -> None:
    found = await search(client, query="decreto das feiras", metadata_filter=[wanted])
    assert {passage.document_id for passage in found.passages} == {decrees[year] for year in years}
    assert all(passage.metadata["setor"] == "feiras" for passage in found.passages)


async def test_a_ready_vector_needs_no_words(client: Client, decrees: dict[str, str]) -> None:
    [vector] = await HashedEmbedder().embed_documents(["O decreto de 2027 trata das feiras livres do município."])
    found = await search(client, vector=vector.tolist(), mode=pb.SEARCH_MODE_VECTOR)
    assert found.passages[0].document_id == decrees["2027"]


async def test_a_search_is_reranked_when_asked_to(client: Client, decrees: dict[str, str]) -> None:
    assert decrees
    assert (await search(client, query="feiras livres")).reranker == ""
    assert (await search(client, query="feiras livres", reranking=pb.RERANKING_ON)).reranker == "lexical"


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"vector": [0.1] * (DIMENSIONS - 1)},
        {"query": "x", "languages": ["PT"]},
        {"query": "x", "metadata_filter": [condition("ano", "EQ")]},
        {"query": "x", "metadata_filter": [condition("ano", "GT", filter_pb2.MetadataValue(bool_value=True))]},
        {"query": "x", "metadata_filter": [condition("", "EXISTS")]},
        {"query": "x", "metadata_filter": [condition("ano", "EQ", filter_pb2.MetadataValue())]},
    ],
)
async def test_what_makes_no_sense_is_refused(client: Client, wanted: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await search(client, **wanted)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
