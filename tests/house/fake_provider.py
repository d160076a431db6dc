"""The one fake: an OpenAI-compatible server on a real port. The model's name chooses how it behaves.

fake-plain          a short fixed answer, at once (also for any name not listed)
fake-echo           the last user message, word by word
fake-long           2 000 words, at once
fake-words-N        N words, one every 20 milliseconds
fake-slow[-MS]      200 words, one every MS milliseconds (50)
fake-cached         fake-plain, with cached and reasoning tokens in the usage
fake-no-usage       fake-plain, without usage
fake-length         stops with finish_reason "length"
fake-truncated      three words, then the stream ends without finish_reason
fake-error-event    three words, then an error event
fake-hang           the headers, then nothing
fake-silent         nothing at all, not even headers
fake-verdict        a verdict on a conversation, as analytics wants it
fake-verdict-odd    the same with a feeling that there is not
fake-empty          nothing, and says that it is done
fake-page           an HTML page with status 200, as a wrong base URL gives one
fake-portal         an HTML page with status 200 that never ends
fake-hollow         JSON with status 200 that has a choice, and in it no message
fake-broken         three words, then the connection breaks in the middle of the body
fake-garbage        three words, then an event that is no JSON
fake-odd-…          what no provider should send (fake_oddities.py)
fake-error          500
fake-flaky          500 twice for the same question, then as fake-plain
fake-rate-limited   429 with Retry-After: 7
fake-unauthorised   401
fake-reasons        refuses max_tokens and any temperature, as models that reason do; else as fake-plain
fake-picky          refuses top_p

Embeddings: as above for fake-error; fake-busy answers 429 with Retry-After: 1 to each batch once; fake-384 gives
vectors of 384 dimensions, the first values of any other's.
fake-obey           does what "OBEY: …" says wherever it stands outside the block of data, else as fake-plain
fake-leader         leads a team: plans and routes as asked, repeats what was found when it composes
fake-quote          the first passage it is given, with its number
"""

import asyncio
import base64
import json
import re
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy.local.ports import LOOPBACK
from tests.house.fake_oddities import NAMES, USAGES, odd_events
from tests.house.fake_roles import ROLES
from tests.house.ports import own_port

PLAIN_ANSWER = "A resposta está no documento da prefeitura, conforme o trecho citado [1]."
SLOW_WORDS = 200
LONG_WORDS = 2000
SLOW_MILLISECONDS = 50
WORD_SECONDS = 0.02
WORDS_BEFORE_TROUBLE = 3
HANG_SECONDS = 600.0
RETRY_AFTER_SECONDS = 7
CACHED_TOKENS = 4
REASONING_TOKENS = 5
FLAKY_FAILURES = 2
DIMENSIONS = 1536
VERDICT = {
    "category": "reclamacao",
    "main_topic": "Feira livre",
    "topics": ["Barracas"],
    "sentiment": "negativo",
    "satisfaction": 2,
    "resolution": "nao_resolvido",
    "issue_category": "servico",
    "summary": "A pessoa perguntou pela feira. Telefone 83 99999-1234.",
}
UNSUPPORTED = {
    "fake-reasons": {"max_tokens": "unsupported_parameter", "temperature": "unsupported_value"},
    "fake-picky": {"top_p": "unsupported_parameter"},
}
TROUBLED = ("fake-truncated", "fake-error-event", "fake-broken", "fake-garbage")


@dataclass
class Answered:
    """One chat completion that was asked for, as far as it went."""

    model: str
    messages: list[dict[str, Any]]
    words_sent: int = 0
    finished: bool = False
    disconnected: bool = False
    started_at: float = field(default_factory=time.monotonic)
    ended_at: float = 0.0

    @property
    def last_user_message(self) -> str:
        """What was asked."""
        return next(str(each["content"]) for each in reversed(self.messages) if each["role"] == "user")


class FakeProvider:
    """The server's memory and its address. Thread-safe to read from a test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered: list[Answered] = []
        self.embedded: list[list[str]] = []
        self._failures: Counter[str] = Counter()

    @property
    def base_url(self) -> str:
        """For OPENAI_BASE_URL."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    def application(self) -> Starlette:
        """The routes of the server."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                Route("/v1/rerank", self._rerank, methods=["POST"]),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        turn = Answered(body["model"], body["messages"])
        self.answered.append(turn)
        refusal = self._refusal(turn) or _unsupported(turn.model, body)
        if refusal is not None:
            turn.ended_at = time.monotonic()
            return refusal
        if turn.model == "fake-silent":
            await asyncio.sleep(HANG_SECONDS)
        if not body.get("stream"):
            turn.finished = True
            return JSONResponse(_whole(turn))
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return StreamingResponse(_recorded(turn, _events(turn, wants_usage)), media_type="text/event-stream")

    def _refusal(self, turn: Answered) -> Response | None:
        match turn.model:
            case "fake-error":
                return _error(500, "server_error")
            case "fake-rate-limited":
                return _error(429, "rate_limit_exceeded", {"Retry-After": str(RETRY_AFTER_SECONDS)})
            case "fake-unauthorised":
                return _error(401, "invalid_api_key")
            case "fake-page":
                return HTMLResponse("<h1>It works!</h1>")
            case "fake-portal":
                return StreamingResponse(_recorded(turn, _endless_page()), media_type="text/html")
            case "fake-hollow":
                return JSONResponse({"object": "chat.completion", "choices": [{}]})
            case "fake-flaky":
                self._failures[turn.last_user_message] += 1
                if self._failures[turn.last_user_message] <= FLAKY_FAILURES:
                    return _error(500, "server_error")
        return None

    def _is_first_time(self, question: str) -> bool:
        self._failures[question] += 1
        return self._failures[question] == 1

    async def _embeddings(self, request: Request) -> Response:
        body = await request.json()
        texts = [body["input"]] if isinstance(body["input"], str) else list(body["input"])
        self.embedded.append(texts)
        if body["model"] == "fake-error":
            return _error(500, "server_error")
        if body["model"] == "fake-busy" and self._is_first_time("\n".join(texts)):
            self.embedded.pop()
            return _error(429, "rate_limit_exceeded", {"Retry-After": "1"})
        dimensions = 384 if body["model"] == "fake-384" else DIMENSIONS
        encoded = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if encoded else vector}
            for index, vector in enumerate(embedding(text)[:dimensions] for text in texts)
        ]
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": body["model"], "data": data, "usage": usage})

    async def _rerank(self, request: Request) -> Response:
        """The longest document first, all but the shortest; fake-error and fake-garbage as elsewhere."""
        body = await request.json()
        if body["model"] == "fake-error":
            return _error(500, "server_error")
        if body["model"] == "fake-garbage":
            return JSONResponse({"results": [{"index": len(body["documents"]), "relevance_score": 1.0}]})
        scores = [{"index": place, "relevance_score": len(text)} for place, text in enumerate(body["documents"])]
        ranked = sorted(scores, key=lambda each: -each["relevance_score"])
        return JSONResponse({"results": ranked[:-1] if len(ranked) > 1 else ranked})


@contextmanager
def fake_provider(port: int = 0) -> Iterator[FakeProvider]:
    """Serves on the port, a free one when 0, in a thread of its own, for the length of the block."""
    provider = FakeProvider(port or own_port())
    config = uvicorn.Config(
        provider.application(), host=LOOPBACK, port=provider.port, log_level="critical", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="fake-provider", daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield provider
    finally:
        server.should_exit = True
        thread.join(10)


def embedding(text: str) -> list[float]:
    """A unit vector that says which words a text has: the same text, the same vector; similar ones lie near."""
    vector = [0.0] * DIMENSIONS
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector] if length else [1.0] + [0.0] * (DIMENSIONS - 1)


async def _recorded(turn: Answered, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Notes how the stream ended: to its end, or because the client went away."""
    try:
        async for event in events:
            yield event
        turn.finished = True
    except (asyncio.CancelledError, GeneratorExit):
        turn.disconnected = True
        raise
    finally:
        turn.ended_at = time.monotonic()


async def _events(turn: Answered, wants_usage: bool) -> AsyncIterator[str]:
    if turn.model == "fake-hang":
        await asyncio.sleep(HANG_SECONDS)
    for piece in _pieces(turn):
        if in_trouble(turn):
            break
        yield _chunk(turn, {"content": piece})
        turn.words_sent += 1
        await asyncio.sleep(_pause_seconds(turn.model))
    if turn.model == "fake-truncated":
        return
    if turn.model == "fake-broken":
        raise ConnectionResetError
    if turn.model == "fake-garbage":
        yield "data: {no json\n\n"
        return
    if turn.model == "fake-error-event":
        yield _event({"error": {"message": "the model fell over", "type": "server_error", "code": None}})
        return
    for odd in odd_events(turn.model):
        yield f"data: {json.dumps(odd)}\n\n"
    yield _chunk(turn, {}, "length" if turn.model == "fake-length" else "stop")
    if wants_usage and turn.model != "fake-no-usage":
        yield _event({**_frame(turn), "choices": [], "usage": USAGES.get(turn.model) or _usage(turn)})
    yield "data: [DONE]\n\n"


async def _endless_page() -> AsyncIterator[str]:
    while True:
        yield "<p>Aceite os termos de uso desta rede."
        await asyncio.sleep(WORD_SECONDS)


def in_trouble(turn: Answered) -> bool:
    """Whether a stream that is to break off has gone far enough."""
    return turn.model in TROUBLED and turn.words_sent >= WORDS_BEFORE_TROUBLE


def _pieces(turn: Answered) -> list[str]:
    if turn.model in ROLES:
        text = ROLES[turn.model](turn.messages)
    elif turn.model == "fake-echo":
        text = turn.last_user_message
    elif turn.model.startswith("fake-slow"):
        text = " ".join(f"palavra{number}" for number in range(SLOW_WORDS))
    elif turn.model.startswith("fake-words-"):
        text = " ".join(f"palavra{number}" for number in range(int(turn.model.removeprefix("fake-words-"))))
    elif turn.model == "fake-long":
        text = " ".join(f"palavra{number}" for number in range(LONG_WORDS))
    elif turn.model.startswith("fake-verdict"):
        odd = turn.model == "fake-verdict-odd"
        text = json.dumps(VERDICT | {"sentiment": "eufórico"} if odd else VERDICT, ensure_ascii=False)
    elif turn.model == "fake-empty":
        text = ""
    else:
        text = PLAIN_ANSWER
    return re.findall(r"\S+\s*", text)


def _pause_seconds(model: str) -> float:
    if model.startswith("fake-words-"):
        return WORD_SECONDS
    if not model.startswith("fake-slow"):
        return 0.0
    milliseconds = model.removeprefix("fake-slow").removeprefix("-")
    return float(milliseconds or SLOW_MILLISECONDS) / 1000


def _usage(turn: Answered) -> dict[str, Any]:
    """A token is a word here, so that a test can count."""
    prompt = sum(len(str(message["content"]).split()) for message in turn.messages)
    special = turn.model == "fake-cached"
    answer = turn.words_sent + (REASONING_TOKENS if special else 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS if special else 0},
        "completion_tokens_details": {"reasoning_tokens": REASONING_TOKENS if special else 0},
    }


def _whole(turn: Answered) -> dict[str, Any]:
    pieces = _pieces(turn)
    turn.words_sent = len(pieces)
    message = {"role": "assistant", "content": "".join(pieces)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**_frame(turn), "object": "chat.completion", "choices": [choice], "usage": _usage(turn)}


def _chunk(turn: Answered, delta: dict[str, str], finish_reason: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _event({**_frame(turn), "choices": [choice]})


def _frame(turn: Answered) -> dict[str, Any]:
    name = NAMES.get(turn.model, turn.model)
    return {"id": f"fake-{id(turn)}", "object": "chat.completion.chunk", "created": 0, "model": name}


def _unsupported(model: str, body: dict[str, Any]) -> Response | None:
    for name, code in UNSUPPORTED.get(model, {}).items():
        if name in body:
            return _error(400, code, param=name)
    return None


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _error(status: int, code: str, headers: dict[str, str] | None = None, *, param: str | None = None) -> Response:
    error = {"message": f"{code}, as asked", "type": code, "code": code, "param": param}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
