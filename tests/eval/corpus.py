"""What is searched: the demo documents as they are uploaded, and paragraphs as documents of one chunk each."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg

from deploy.local.demo import DOCUMENTS, TITLES
from services.document_rag.__main__ import Documents
from services.document_rag.documents.index_writer import add_chunks, add_vocabulary, halfvec
from services.document_rag.documents.model import Description
from services.document_rag.model import Chunk, Passage
from services.document_rag.search.embedders import Embedder
from services.document_rag.search.postings import vocabulary_of
from services.document_rag.search.stems import Stemmer
from services.document_rag.search.words import words_of
from shared.identifiers import new_id
from shared.postgres import tenant_transaction
from tests.eval.questions import Question

_TEXTS_A_BATCH = 64
_DOCUMENT = """
    insert into documents (tenant_id, document_id, title, filename, mime_type, size_bytes, sha256, page_count,
                           chunk_count, token_count, char_count, embedding_model, state, is_current)
    values ($1, $2, '', '', 'text/plain', $3, $4, 0, 1, 1, $3, $5, 'ready', true)
"""


async def upload_demo(documents: Documents, tenant_id: str) -> dict[str, str]:
    """The documents of the demo tenant, by the ids they got: the names of their files."""

    async def uploaded(path: Path) -> tuple[str, str]:
        said = Description(filename=path.name, title=TITLES.get(path.name, ""))
        result = await documents.ingest.upload(tenant_id, said, _bytes_of(path))
        return result.document.document_id, path.name

    return dict(await asyncio.gather(*map(uploaded, sorted(DOCUMENTS.iterdir()))))


async def _bytes_of(path: Path) -> AsyncIterator[bytes]:
    yield await asyncio.to_thread(path.read_bytes)


def answers_of(names: dict[str, str], question: Question, passage: Passage) -> bool:
    """Whether the passage answers: of the document expected, and holding the words expected of it."""
    if names.get(passage.document_id) != question.document:
        return False
    return _spaced(question.held) in _spaced(passage.text)


def _spaced(text: str) -> str:
    return " ".join(text.replace("**", "").split()).casefold()


async def index_paragraphs(
    pool: asyncpg.Pool, tenant_id: str, embedder: Embedder, paragraphs: Sequence[str]
) -> dict[str, str]:
    """Each paragraph as a document of one chunk; by their ids: their numbers."""
    stemmer = Stemmer(pool)
    numbers: dict[str, str] = {}
    for start in range(0, len(paragraphs), _TEXTS_A_BATCH):
        batch = paragraphs[start : start + _TEXTS_A_BATCH]
        vectors = await embedder.embed_documents(batch)
        for number, (text, vector) in enumerate(zip(batch, vectors, strict=True), start=start):
            words, document_id = words_of(text), new_id()
            vocabulary = vocabulary_of([words], await stemmer.terms(words))
            sha256 = hashlib.sha256(f"{number} {text}".encode()).digest()
            async with tenant_transaction(pool, tenant_id) as connection:
                await connection.execute(_DOCUMENT, tenant_id, document_id, len(text), sha256, embedder.model)
                chunk = Chunk(0, 0, 0, len(text), "", text, 1)
                await add_chunks(connection, tenant_id, document_id, embedder.model, [chunk], [halfvec(vector)])
                await add_vocabulary(connection, tenant_id, document_id, vocabulary)
            numbers[document_id] = str(number)
    return numbers
