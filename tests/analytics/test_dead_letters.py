"""Dead letters in MongoDB: what forgetting a user finds in them, and what it reads for that."""

from collections.abc import Sequence

import pytest
from bson import Binary

from services.analytics.intake.dead_letters import DeadLetter, DeadLetters
from services.analytics.intake.streams import Kind
from shared.mongo import MongoDatabase
from tests.analytics.conftest import Redis, desk_on

# What no text could hold as it is, and the marks of a search.
ODD = b"\x00\xff\xfe$.*"


@pytest.fixture
async def letters(database: MongoDatabase, redis: Redis) -> DeadLetters:
    opened = desk_on(database, redis).letters
    await opened.prepare()
    return opened


async def bury(letters: DeadLetters, items: Sequence[bytes], tenant_id: str = "acme") -> None:
    for number, item in enumerate(items):
        event_id = f"{tenant_id}-{number}"
        letter = DeadLetter.of(
            Kind.EXECUTION, item, tenant_id=tenant_id, event_id=event_id, reason="no", deliveries=5, outside=True
        )
        await letters.bury(letter)


async def left(letters: DeadLetters, tenant_id: str = "acme") -> set[bytes]:
    return {letter.item for letter in await letters.listed(tenant_id, None, None, 100)}


async def test_a_letter_gives_back_the_bytes_it_was_given(letters: DeadLetters) -> None:
    every = bytes(range(256))
    await bury(letters, [every, ODD, b""])
    assert await left(letters) == {every, ODD, b""}


@pytest.mark.parametrize("user_id", ["ana", "joão", "a.*", "$ana", "a\\n"])
async def test_letters_that_name_the_user_are_forgotten_and_no_others(letters: DeadLetters, user_id: str) -> None:
    naming, others = [user_id.encode(), ODD + user_id.encode() + ODD], [ODD, b"bia", b"Ana JO\xc3\x83O axx"]
    await bury(letters, [*naming, *others])
    await bury(letters, naming, "beta")
    assert await letters.forget("acme", user_id) == 2
    assert await left(letters) == set(others)
    assert await left(letters, "beta") == set(naming)


async def test_letters_kept_as_bytes_by_an_earlier_release_are_forgotten_too(
    letters: DeadLetters, database: MongoDatabase
) -> None:
    await bury(letters, [ODD + b"ana", ODD])
    async for letter in database["dead_letters"].find():
        kept = Binary(letter["item"].encode("latin-1"))
        await database["dead_letters"].update_one({"_id": letter["_id"]}, {"$set": {"item": kept}})
    assert await left(letters) == {ODD + b"ana", ODD}
    assert await letters.forget("acme", "ana") == 1
    assert await left(letters) == {ODD}


async def test_forgetting_a_user_brings_no_letter_over_the_wire(letters: DeadLetters, database: MongoDatabase) -> None:
    await bury(letters, [bytes([number]) * 100_000 for number in range(20)])
    await database.command("profile", 2)
    await letters.forget("acme", "ana")
    await database.command("profile", 0)
    operations = [each async for each in database["system.profile"].find({"ns": f"{database.name}.dead_letters"})]
    assert operations
    assert sum(each.get("responseLength", 0) for each in operations) < 10_000
