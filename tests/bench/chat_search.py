"""Search in a million messages of ten tenants: the service beside the same search straight on its engine.

The texts are read from PROSA_DIALOGUES (gzip, one JSON object a line with "turns": [[role, text], …]; without it
nothing is measured) and repeated to the volume. `PROSA_DIALOGUES=dialogues.jsonl.gz python -m tests.bench chat_search`.
"""

import gzip
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from pathlib import Path

import uvloop

from services.chat_store.batch import Batch
from services.chat_store.model import Conversation, Description, Draft, MessageType, NewConversation, Totals
from services.chat_store.snapshot import KeptAppend, KeptConversation, Piece
from services.chat_store.store import ChatStore
from services.chat_store.words import words_of
from shared.identifiers import new_id
from tests.bench.bare_handler import bare_handlers
from tests.bench.chat import ENGINES, running_engines
from tests.bench.chat_service import TENANT, USER, Engines, opened_engine, opened_service
from tests.bench.empty_call import empty_call
from tests.bench.overhead import Sides, overhead
from tests.bench.table import Row, publish
from tests.house.signing import SigningKeys, new_signing_keys

DATA = "PROSA_DIALOGUES"
MESSAGES = int(os.environ.get("PROSA_BENCH_MESSAGES", "1000000"))
TENANTS = [TENANT, *(f"t{number}" for number in range(1, 10))]
MESSAGES_A_CONVERSATION = 20
PIECES_AT_ONCE = 2_000
QUERIES = 200
COMMON_QUERIES = 100
CALLS_ALLOWED = 2


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
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(opened_engine(engines, name))
        await _filled(engine.store, corpus)
        service = await stack.enter_async_context(opened_service(engines, keys, engine, name))
        bare = await stack.enter_async_context(bare_handlers(engines, name))
        empty = await stack.enter_async_context(empty_call())
        sides = Sides(service.search, engine.search, bare["search"], empty)
        common = [corpus.common] * COMMON_QUERIES
        rows = []
        for what, queries in (("two words", corpus.queries), (f'"{corpus.common}"', common)):
            case = f"{name}, {MESSAGES:,} messages: {what}, p95"
            rows += await overhead(case, sides, queries, _p95, CALLS_ALLOWED)
        return rows


def _p95(milliseconds: Sequence[float]) -> float:
    return statistics.quantiles(milliseconds, n=20)[-1]


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
        user_id=USER,
        assistant_id="",
        team_id="",
        channel="web",
        description=Description(),
        create_time=since,
        last_activity_time=since + timedelta(seconds=len(texts)),
        totals=Totals().after(drafts),
        preview=texts[-1][:200],
    )
    yield KeptConversation(conversation, "", NewConversation(conversation_id, USER).fingerprint)
    for place in range(0, len(drafts), 2):
        batch = Batch.of(drafts[place : place + 2], "", new_id)
        said = tuple(batch.placed(place + 1, since + timedelta(seconds=place)))
        yield KeptAppend(tenant, conversation_id, since, "", batch.fingerprint, said, ())


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
