"""More searches at once than there are connections."""

import asyncio
from uuid import uuid4

from services.document_rag.__main__ import Documents
from services.document_rag.config import Config
from services.document_rag.model import SearchMode


async def test_searches_for_words_never_seen_do_not_wait_for_each_other(
    documents: Documents, document_config: Config, tenant_id: str
) -> None:
    """A search that holds a connection needs no second one to learn its words."""
    many = 3 * document_config.database_max_connections
    queries = [f"palavra{uuid4().hex} prazo{uuid4().hex}" for _ in range(many)]
    # Whoever waited for a second connection would be refused after a while.
    found = await asyncio.gather(
        *(documents.index.search(tenant_id, each, top_k=3, mode=SearchMode.HYBRID) for each in queries)
    )
    assert [each.passages for each in found] == [()] * many
