"""Texts that MongoDB keeps apart: no message is ever without its own, whoever removes the same text meanwhile."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.chat_store.batch import Batch
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.limits import INLINE_BYTES
from services.chat_store.snapshot import KeptBody
from shared.mongo import open_mongo
from tests.chat_store.pictures import dumped
from tests.chat_store.workshop import batch_of, said, somebody, started, whole

TEXT = "é" * INLINE_BYTES


class TrimmedMeanwhile(MongoChatStore):
    """A store in which the oldest messages leave between an append's text and the append itself."""

    keep_from = 0

    async def _try_append(self, header: Document, batch: Batch, terms: list[list[str]]) -> Document | None:
        if self.keep_from:
            await self.upkeep.trim(header["tenant_id"], header["conversation_id"], self.keep_from)
        return await super()._try_append(header, batch, terms)


@pytest.fixture
async def store(mongo_url: str) -> AsyncIterator[TrimmedMeanwhile]:
    async with open_mongo(SecretStr(mongo_url), f"texts_{uuid4().hex[:8]}") as database:
        yield TrimmedMeanwhile(database)
        await database.client.drop_database(database.name)


async def test_a_text_said_again_while_it_is_trimmed_comes_back_whole(store: TrimmedMeanwhile) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    await store.append(reach, conversation, batch_of(said(TEXT)))
    await store.append(reach, conversation, batch_of(said("depois")))
    store.keep_from = 2
    (again,) = await store.append(reach, conversation, batch_of(said(TEXT)))
    assert await whole(store.text(reach, conversation, again.message_id)) == TEXT.encode()
    assert (await store.get(reach, conversation)).first_seq == 2


async def test_a_text_goes_with_the_last_message_that_says_it(store: TrimmedMeanwhile) -> None:
    reach = somebody()
    conversation = await started(store, reach)
    for _ in range(3):
        await store.append(reach, conversation, batch_of(said(TEXT)))
    for keep_from, kept in ((2, 1), (3, 1), (4, 0)):
        await store.upkeep.trim(reach.tenant_id, conversation, keep_from)
        bodies = [piece for piece in await dumped(store, reach.tenant_id) if isinstance(piece, KeptBody)]
        assert len(bodies) == kept
