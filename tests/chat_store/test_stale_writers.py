"""A writer to MongoDB that was held up for long: what it is told was stored is there."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.chat_store.batch import Batch
from services.chat_store.engines.mongo.codec import Document
from services.chat_store.engines.mongo.store import MongoChatStore
from services.chat_store.selection import Reach
from shared.mongo import open_mongo
from tests.chat_store.workshop import batch_of, everything, pair, said, somebody, talk


class HeldUp(MongoChatStore):
    """A replica that stands still before it inserts, while another one goes on and trims."""

    other: MongoChatStore | None = None

    async def _try_append(self, header: Document, batch: Batch, terms: list[list[str]]) -> Document | None:
        if self.other is not None:
            other, self.other = self.other, None
            reach, conversation = Reach(header["tenant_id"], header["user_id"]), header["conversation_id"]
            for _ in range(3):
                await other.append(reach, conversation, pair("meanwhile"))
            await other.upkeep.trim(reach.tenant_id, conversation, 5)
        return await super()._try_append(header, batch, terms)


@pytest.fixture
async def replicas(mongo_url: str) -> AsyncIterator[tuple[HeldUp, MongoChatStore]]:
    async with open_mongo(SecretStr(mongo_url), f"stale_{uuid4().hex[:8]}") as database:
        yield HeldUp(database), MongoChatStore(database)
        await database.client.drop_database(database.name)


async def test_an_append_at_a_place_that_was_trimmed_meanwhile_is_not_lost(
    replicas: tuple[HeldUp, MongoChatStore],
) -> None:
    (store, other), reach = replicas, somebody()
    conversation, _ = await talk(store, reach, "um")
    store.other = other
    (late,) = await store.append(reach, conversation, batch_of(said("depois"), request_id="r1"))
    assert late.seq == 8
    assert [message.seq for message in await everything(other, reach, conversation)] == [4, 5, 6, 7, 8]
    assert (await other.message(reach, conversation, late.message_id)).draft.text == "depois"
    assert await other.append(reach, conversation, batch_of(said("depois"), request_id="r1")) == [late]
