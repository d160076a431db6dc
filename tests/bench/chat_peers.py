"""How others keep a conversation: LangChain's three histories, plan 004's tables, and the drivers without any of it.

Each works in this process, without any service before it; what blocks runs in threads, as its users run it. The process
is one of its own, in an environment of its own (`make bench` makes it), that is told what to do line by line: a JSON
object with "do" = "fill", "alone" or "together" on standard input, the figure on standard output.
"""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import asyncpg
import psycopg
import redis
import uvloop
from langchain_community.chat_message_histories import RedisChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, message_to_dict
from langchain_mongodb.chat_message_histories import MongoDBChatMessageHistory
from langchain_postgres import PostgresChatMessageHistory
from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from sqlalchemy import ForeignKey, String, Text, create_engine, func, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tests.bench.pace import alone, together

TEXT = ("Qual é o prazo para pagar o IPTU deste ano, e onde encontro a segunda via do boleto? " * 5)[:400]
LAST = 50
THREADS = 32
FILL_BATCH = 5_000

T = TypeVar("T")


class Side(Protocol):
    """One way to keep conversations."""

    name: str

    async def fill(self, conversation_id: str, messages: int) -> None:
        """Makes a conversation of this length."""

    async def append(self, conversation_id: str) -> None:
        """Appends a pair."""

    async def read(self, conversation_id: str) -> int:
        """Reads the last messages; how many there were."""


class Blocking:
    """A side whose library blocks: each call in a thread."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class LangChainMongo(Blocking):
    """MongoDBChatMessageHistory: one document a message, the whole history read each time."""

    name = "LangChain MongoDB"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._client: MongoClient[dict[str, Any]] = MongoClient(url)
        self._histories: dict[str, MongoDBChatMessageHistory] = {}

    async def fill(self, conversation_id: str, messages: int) -> None:
        history = MongoDBChatMessageHistory(
            connection_string=None,
            client=self._client,
            session_id=conversation_id,
            database_name="peers",
            collection_name="langchain",
        )
        self._histories[conversation_id] = history
        kept = [{"SessionId": conversation_id, "History": _langchain_json(number)} for number in range(messages)]
        for part in _parts(kept):
            history.collection.insert_many(part)

    async def append(self, conversation_id: str) -> None:
        await self._run(lambda: self._histories[conversation_id].add_messages(_langchain_pair()))

    async def read(self, conversation_id: str) -> int:
        return len(await self._run(lambda: self._histories[conversation_id].messages[-LAST:]))


class LangChainPostgres:
    """PostgresChatMessageHistory on its async driver: a row a message, the whole history read each time."""

    name = "LangChain PostgreSQL"
    TABLE = "langchain"

    def __init__(self, url: str) -> None:
        self._url = url
        self._histories: dict[str, PostgresChatMessageHistory] = {}
        self._connections: dict[str, psycopg.AsyncConnection[Any]] = {}

    async def fill(self, conversation_id: str, messages: int) -> None:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        await PostgresChatMessageHistory.acreate_tables(connection, self.TABLE)
        session = str(uuid.uuid5(uuid.NAMESPACE_OID, conversation_id))
        self._connections[conversation_id] = connection
        self._histories[conversation_id] = PostgresChatMessageHistory(self.TABLE, session, async_connection=connection)
        async with connection.cursor() as cursor:
            copy = cursor.copy(f"copy {self.TABLE} (session_id, message) from stdin")
            async with copy as rows:
                for number in range(messages):
                    await rows.write_row((session, _langchain_json(number)))

    async def append(self, conversation_id: str) -> None:
        await self._histories[conversation_id].aadd_messages(_langchain_pair())

    async def read(self, conversation_id: str) -> int:
        return len((await self._histories[conversation_id].aget_messages())[-LAST:])

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()


class LangChainRedis(Blocking):
    """RedisChatMessageHistory: a list of JSON, the whole of it read each time (and not durable)."""

    name = "LangChain Redis"

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._histories: dict[str, RedisChatMessageHistory] = {}

    async def fill(self, conversation_id: str, messages: int) -> None:
        history = RedisChatMessageHistory(session_id=conversation_id, url=self._url)
        self._histories[conversation_id] = history
        client = redis.Redis.from_url(self._url)
        for part in _parts([_langchain_json(number) for number in range(messages)]):
            client.lpush(history.key, *part)

    async def append(self, conversation_id: str) -> None:
        await self._run(lambda: self._histories[conversation_id].add_messages(_langchain_pair()))

    async def read(self, conversation_id: str) -> int:
        return len(await self._run(lambda: self._histories[conversation_id].messages[-LAST:]))


class _Base(DeclarativeBase):
    pass


class _Session(_Base):
    __tablename__ = "plan_sessions"
    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(String(255), unique=True, index=True)
    updated_at: Mapped[datetime]


class _Message(_Base):
    __tablename__ = "plan_messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[str] = mapped_column(ForeignKey("plan_sessions.session_id"), index=True)
    role: Mapped[str] = mapped_column(String(50))
    content: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(index=True)


class PlanTables(Blocking):
    """Plan 004 as written: SQLAlchemy's ORM, a count before each message and the oldest ones deleted one by one."""

    name = "plan 004 (SQLAlchemy)"

    def __init__(self, url: str) -> None:
        super().__init__()
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), pool_size=THREADS)
        _Base.metadata.create_all(engine)
        self._session = sessionmaker(engine)
        self._cap: dict[str, int] = {}

    async def fill(self, conversation_id: str, messages: int) -> None:
        self._cap[conversation_id] = messages
        with self._session() as session:
            session.add(_Session(session_id=conversation_id, updated_at=_now()))
            session.flush()
            kept = [
                {"session_id": conversation_id, "role": "user", "content": TEXT, "created_at": _now()}
                for _ in range(messages)
            ]
            for part in _parts(kept):
                session.execute(insert(_Message), part)
            session.commit()

    async def append(self, conversation_id: str) -> None:
        for role in ("user", "assistant"):
            await self._run(lambda role=role: self._add(conversation_id, role))  # type: ignore[misc]

    async def read(self, conversation_id: str) -> int:
        return await self._run(lambda: self._last(conversation_id))

    def _add(self, conversation_id: str, role: str) -> None:
        with self._session() as session:
            session.scalars(select(_Session).where(_Session.session_id == conversation_id)).one().updated_at = _now()
            session.commit()
            session.add(_Message(session_id=conversation_id, role=role, content=TEXT, created_at=_now()))
            self._cut(session, conversation_id)
            session.commit()

    def _cut(self, session: Session, conversation_id: str) -> None:
        of_session = _Message.session_id == conversation_id
        count = session.scalar(select(func.count()).select_from(_Message).where(of_session)) or 0
        surplus = count - self._cap[conversation_id]
        if surplus > 0:
            oldest = select(_Message).where(of_session).order_by(_Message.created_at).limit(surplus)
            for message in session.scalars(oldest).all():
                session.delete(message)

    def _last(self, conversation_id: str) -> int:
        with self._session() as session:
            newest = select(_Message).where(_Message.session_id == conversation_id)
            return len(session.scalars(newest.order_by(_Message.created_at.desc()).limit(LAST)).all())


class RawMongo:
    """The driver alone: a pair is one document, durable by majority; the last pages are one indexed query."""

    name = "raw PyMongo"

    def __init__(self, url: str) -> None:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url)
        durable = WriteConcern(w="majority", j=True)
        self._pairs = client["peers"].get_collection("raw", write_concern=durable)
        self._next: dict[str, int] = {}

    async def fill(self, conversation_id: str, messages: int) -> None:
        pairs = [_raw_pair(conversation_id, number) for number in range(messages // 2)]
        for part in _parts(pairs):
            await self._pairs.insert_many(part, ordered=False)
        self._next[conversation_id] = messages

    async def append(self, conversation_id: str) -> None:
        self._next[conversation_id] += 1
        await self._pairs.insert_one(_raw_pair(conversation_id, self._next[conversation_id]))

    async def read(self, conversation_id: str) -> int:
        within = {"_id": {"$gte": f"{conversation_id}:", "$lt": f"{conversation_id};"}}
        newest = self._pairs.find(within).sort("_id", -1).limit(LAST // 2)
        return 2 * len(await newest.to_list(None))


class RawPostgres:
    """The driver alone: a pair is one statement; the last messages are one indexed query."""

    name = "raw asyncpg"
    INSERT = "insert into raw_messages select $1, $2 + n, $3 from generate_series(1, 2) n"
    LAST = "select seq, content from raw_messages where conversation_id = $1 order by seq desc limit $2"

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._next: dict[str, int] = {}

    async def prepare(self) -> None:
        await self._pool.execute(
            "create table if not exists raw_messages"
            " (conversation_id text, seq bigint, content text, primary key (conversation_id, seq))"
        )

    async def fill(self, conversation_id: str, messages: int) -> None:
        fill = "insert into raw_messages select $1, n, $2 from generate_series(1, $3::bigint) n"
        await self._pool.execute(fill, conversation_id, TEXT, messages)
        self._next[conversation_id] = messages

    async def append(self, conversation_id: str) -> None:
        place, self._next[conversation_id] = self._next[conversation_id], self._next[conversation_id] + 2
        await self._pool.execute(self.INSERT, conversation_id, place, TEXT)

    async def read(self, conversation_id: str) -> int:
        return len(await self._pool.fetch(self.LAST, conversation_id, LAST))


async def serve(mongo_url: str, postgres_url: str, redis_url: str) -> None:
    """Does what it is told until standard input ends."""
    async with _opened(mongo_url, postgres_url, redis_url) as sides:
        print(json.dumps(list(sides)), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await _done(sides, json.loads(line))), flush=True)


async def _done(sides: dict[str, Side], order: dict[str, Any]) -> float | None:
    side = sides[order["side"]]
    match order["do"]:
        case "fill":
            await side.fill(order["name"], order["messages"])
            return None
        case "alone":
            return await alone(getattr(side, order["call"]), order["name"], order["seconds"])
        case "together":
            return await together(getattr(side, order["call"]), order["names"], order["seconds"])
    raise ValueError(order)


@asynccontextmanager
async def _opened(mongo_url: str, postgres_url: str, redis_url: str) -> AsyncIterator[dict[str, Side]]:
    """All sides by name, on engines that run."""
    async with asyncpg.create_pool(postgres_url, min_size=THREADS, max_size=THREADS) as pool:
        raw_postgres, langchain_postgres = RawPostgres(pool), LangChainPostgres(postgres_url)
        await raw_postgres.prepare()
        sides: list[Side] = [
            LangChainMongo(mongo_url),
            langchain_postgres,
            LangChainRedis(redis_url),
            PlanTables(postgres_url),
            RawMongo(mongo_url),
            raw_postgres,
        ]
        yield {side.name: side for side in sides}
        await langchain_postgres.close()


def _langchain_pair() -> list[BaseMessage]:
    return [HumanMessage(TEXT), AIMessage(TEXT)]


def _langchain_json(number: int) -> str:
    return json.dumps(message_to_dict(_langchain_pair()[number % 2]))


def _raw_pair(conversation_id: str, number: int) -> dict[str, Any]:
    messages = [{"message_id": str(uuid.uuid4()), "type": kind, "text": TEXT} for kind in ("user", "assistant")]
    return {"_id": f"{conversation_id}:{number:012d}", "create_time": _now(), "messages": messages}


def _parts(rows: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(rows), FILL_BATCH):
        yield rows[start : start + FILL_BATCH]


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
