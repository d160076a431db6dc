"""Deleting a collection together with the documents and the pushed chunks in it."""

from contextlib import suppress

from services.document_rag.documents.collection_store import CollectionStore
from services.document_rag.documents.ingest import Ingest
from shared.errors import NotFound


async def delete_with_documents(store: CollectionStore, ingest: Ingest, tenant_id: str, collection_id: str) -> None:
    """Deletes its documents one after another, then the collection. Broken off anywhere, a retry goes on.

    NotFound if the tenant does not own it; CollectionNotEmpty if somebody adds documents meanwhile.
    """
    for document_id in await store.documents_of(tenant_id, collection_id):
        with suppress(NotFound):  # somebody else was faster
            await ingest.delete(tenant_id, document_id)
    await store.delete(tenant_id, collection_id, with_chunks=True)
