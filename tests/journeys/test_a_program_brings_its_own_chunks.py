"""A program cuts its texts itself: it sends them as JSON Lines, asks for them, and assistants answer from them."""

import json

from tests.house.processes import System
from tests.journeys.tenant import Client, eventually, new_tenant

CHUNKS = [
    {"chunkId": "manual-1/poda", "text": "A poda de árvores é pedida pelo telefone 156.", "metadata": {"ano": 2027}},
    {"chunkId": "manual-1/feira", "text": "A feira livre acontece aos sábados na praça.", "metadata": {"ano": 2026}},
]


def test_chunks_sent_as_json_lines_are_found_listed_and_cited(system: System) -> None:
    tenant = new_tenant(system)
    collection_id = tenant.admin.post("/v1/collections", {"collection": {"displayName": "manuais"}})["collectionId"]
    path = f"/v1/collections/{collection_id}/chunks"
    assert _sent(tenant.admin, path) == {"createdCount": "2", "updatedCount": "0", "unchangedCount": "0"}
    assert _sent(tenant.admin, path) == {"createdCount": "0", "updatedCount": "0", "unchangedCount": "2"}

    found = tenant.admin.post(f"{path}:query", {"text": "como pedir poda de árvore", "topK": 1})
    assert found["retrievalMode"] == "RETRIEVAL_MODE_EXACT"
    assert found["chunks"][0]["chunk"]["chunkId"] == "manual-1/poda"
    of_2026 = {"field": "ano", "values": [{"numberValue": 2026}]}
    found = tenant.admin.post(f"{path}:query", {"text": "poda de árvore", "metadataFilter": [of_2026]})
    assert [each["chunk"]["chunkId"] for each in found["chunks"]] == ["manual-1/feira"]
    assert [each["chunkId"] for each in tenant.admin.get(path)["chunks"]] == ["manual-1/feira", "manual-1/poda"]

    eventually(lambda: tenant.admin.post(f"{path}:count")["unindexedTextCount"] == "0")
    told = tenant.admin.ask(tenant.assistant_id, "Por qual telefone se pede a poda de árvores?")
    assert told.completed, told.error
    assert "156" in told.text
    assert told.of("citation")[0]["chunkId"] == "manual-1/poda"

    assert tenant.admin.post(f"{path}:delete", {"chunkIds": ["manual-1/poda"]}) == {"deletedCount": "1"}
    hits = tenant.admin.post("/v1/documents:search", {"query": "poda de árvores"})["passages"]
    assert "manual-1/poda" not in [hit["chunkId"] for hit in hits]


def _sent(client: Client, path: str) -> dict[str, str]:
    lines = "\n".join(json.dumps(chunk, ensure_ascii=False) for chunk in CHUNKS)
    response = client.http.post(f"{path}:upsert", content=lines.encode())
    assert response.status_code == 200, response.text
    answer: dict[str, str] = response.json()
    return answer
