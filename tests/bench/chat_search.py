"""Search in a million messages of ten tenants: the service beside the same search straight on its engine.

The texts are read from PROSA_DIALOGUES (gzip, one JSON object a line with "turns": [[role, text], …]; without it
nothing is measured) and repeated to the volume. `PROSA_DIALOGUES=dialogues.jsonl.gz python -m tests.bench chat_search`.
"""

import asyncio
import gzip
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path

import grpc
import uvloop

from deploy.local.ports import free_port
from prosa.chat_store.v1 import conversation_service_pb2 as pb
from prosa.chat_store.v1 import conversation_service_pb2_grpc as rpc
from services.chat_store.batch import Batch
from services.chat_store.model import Conversation, Description, Draft, MessageType, NewConversation, Totals
from services.chat_store.selection import Reach, Search
from services.chat_store.snapshot import KeptAppend, KeptConversation, Piece
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.identifiers import new_id
from tests.bench.chat import ENGINES, running_engines
from tests.bench.chat_service import START_SECONDS, Engines, opened_engine, running_service
from tests.bench.empty_call import empty_call
from tests.bench.table import Row, at_most, publish
from tests.house.in_process import as_caller, token
from tests.house.signing import SigningKeys, new_signing_keys

DATA = "PROSA_DIALOGUES"
MESSAGES = int(os.environ.get("PROSA_BENCH_MESSAGES", "1000000"))
TENANTS = [f"t{number}" for number in range(10)]
MESSAGES_A_CONVERSATION = 20
PIECES_AT_ONCE = 2_000
QUERIES = 200
COMMON_QUERIES = 30
ROUNDS = 3
CALLS_ALLOWED = 2

Ask = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Corpus:
    """The turns of real dialogues, and queries made of their words."""

    turns: list[str]
    queries: list[str]
    common: str


def main() -> list[Row]:
    """Measures, prints, writes .prosa/bench/chat_search.json."""
    path = os.environ.get(DATA)
    if not path:
        print(f"chat_search: set {DATA} to a file of dialogues (gzip, JSON lines)", file=sys.stderr)
        return []
    corpus, keys = _corpus(Path(path)), new_signing_keys()
    with running_engines(keys.public_pem) as engines:
        rows = [row for name in ENGINES for row in uvloop.run(_measured(engines, keys, name, corpus))]
    publish("chat_search", rows)
    return rows


async def _measured(engines: Engines, keys: SigningKeys, name: str, corpus: Corpus) -> list[Row]:
    tenant = TENANTS[0]
    signed = token(keys, tenant_id=tenant, user_id="ana", scopes={"conversations.list"}, lifetime_seconds=36_000)
    port = free_port()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(opened_engine(engines, name))
        await _filled(engine.store, corpus)
        stack.enter_context(running_service(engines.environment(name, port)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        await asyncio.wait_for(channel.channel_ready(), START_SECONDS)
        stub, metadata = rpc.ConversationServiceStub(channel), as_caller(signed)
        empty = await stack.enter_async_context(empty_call())

        async def over_grpc(query: str) -> object:
            return await stub.SearchMessages(pb.SearchMessagesRequest(query=query), metadata=metadata, timeout=60)

        async def on_engine(query: str) -> object:
            return await engine.store.search(Reach(tenant, "ana"), Search(words_of(query)))

        calls = [await _milliseconds(empty, corpus.queries) for _ in range(ROUNDS)]
        allowance = CALLS_ALLOWED * statistics.median(map(_p95, calls))
        rows = []
        for case, queries in (("two words", corpus.queries), (f'"{corpus.common}"', [corpus.common] * COMMON_QUERIES)):
            rounds = [
                (await _milliseconds(over_grpc, queries), await _milliseconds(on_engine, queries))
                for _ in range(ROUNDS)
            ]
            ours = statistics.median(_p95(each) for each, _ in rounds)
            raw = statistics.median(_p95(each) for _, each in rounds)
            title = f"{name}, {MESSAGES:,} messages: {case}, p95, beside the engine + {CALLS_ALLOWED} empty calls"
            rows.append(at_most(title, ours, raw + allowance, "ms", 1.0))
        return rows


async def _filled(store: ChatStore, corpus: Corpus) -> None:
    turns, begin, batch = cycle(corpus.turns), time.perf_counter(), list[Piece]()
    for number in range(MESSAGES // MESSAGES_A_CONVERSATION):
        batch += _conversation(number, list(islice(turns, MESSAGES_A_CONVERSATION)))
        if len(batch) >= PIECES_AT_ONCE:
            await store.upkeep.load(batch)
            batch = []
    await store.upkeep.load(batch)
    print(f"filled in {time.perf_counter() - begin:.0f} s", file=sys.stderr)


def _conversation(number: int, texts: Sequence[str]) -> Iterator[Piece]:
    tenant, conversation_id = TENANTS[number % len(TENANTS)], new_id()
    since = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    drafts = [Draft(MessageType.ASSISTANT if place % 2 else MessageType.USER, text) for place, text in enumerate(texts)]
    conversation = Conversation(
        conversation_id=conversation_id,
        tenant_id=tenant,
        user_id="ana",
        assistant_id="",
        team_id="",
        channel="web",
        description=Description(),
        create_time=since,
        last_activity_time=since + timedelta(seconds=len(texts)),
        totals=Totals().after(drafts),
        preview=texts[-1][:200],
    )
    yield KeptConversation(conversation, "", NewConversation(conversation_id, "ana").fingerprint)
    for place in range(0, len(drafts), 2):
        batch = Batch.of(drafts[place : place + 2], "", new_id)
        said = tuple(batch.placed(place + 1, since + timedelta(seconds=place)))
        yield KeptAppend(tenant, conversation_id, since, "", batch.fingerprint, said, ())


async def _milliseconds(ask: Ask, queries: Sequence[str]) -> list[float]:
    took = []
    for query in queries:
        asked = time.perf_counter()
        await ask(query)
        took.append((time.perf_counter() - asked) * 1000)
    return took


def _p95(milliseconds: Sequence[float]) -> float:
    return statistics.quantiles(milliseconds, n=20)[-1]


def _corpus(path: Path) -> Corpus:
    """Queries are two words that stand in one turn, neither of them among the most common ones."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        turns = [text for line in lines for _, text in json.loads(line)["turns"] if text.strip()]
    counts = Counter(word for turn in turns for word in turn.lower().split() if word.isalpha() and len(word) > 3)
    dice = random.Random(7)
    queries: list[str] = []
    while len(queries) < QUERIES:
        words = [word for word in dice.choice(turns).lower().split() if 3 <= counts[word] <= len(turns) // 50]
        if len(words) >= 2:
            queries.append(" ".join(dice.sample(words, 2)))
    # The most common word that search does not pass over.
    common = next(word for word, _ in counts.most_common() if any(words_of(word)) and len(words_of(f"{word} zzz")) == 2)
    return Corpus(turns, queries, common)


if __name__ == "__main__":
    main()
