"""The shapes of a call: one answer, a stream, a file, an upload. A client that leaves cancels its call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.api import httpbody_pb2
from google.protobuf.message import Message

from gateway import sse
from gateway.body import ClientGoneError
from gateway.downloads import send_file
from gateway.http_exchange import HttpExchange, SlowReaderError
from gateway.routes import Route
from gateway.transcode import response_json
from shared.errors import ServiceError, Unavailable, error_of
from shared.telemetry import get_logger

# Above this a message is turned into JSON beside the event loop, not on it.
LARGE_MESSAGE_BYTES = 64 * 1024
RETRY_MS = 3000
LINES = "application/x-ndjson"

_log = get_logger()

StatusJson: TypeAlias = Callable[[grpc.aio.AioRpcError | ServiceError], bytes]


class Calls:
    """The calls in flight: each ends when its client leaves, and all of them when the gateway has to go."""

    def __init__(self, heartbeat_seconds: float) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._in_flight: set[Any] = set()
        self._cut = False

    def cut(self) -> None:
        """Ends every call now: clients get UNAVAILABLE, streams as their last event."""
        self._cut = True
        for call in self._in_flight:
            call.cancel()

    async def unary(self, exchange: HttpExchange, route: Route, call: Any) -> None:
        """Answers with the response of a call; AioRpcError when it fails, ClientGoneError when nobody waits."""
        async with self._watched(exchange, call):
            raw = await call
        if route.answers_with_file:
            file = httpbody_pb2.HttpBody.FromString(raw)
            await exchange.reply(200, file.data, file.content_type, [("content-disposition", "attachment")])
            return
        content = await _beside(response_json, route, raw)
        await exchange.reply(200, content)

    async def upload(self, exchange: HttpExchange, route: Route, call: Any, messages: AsyncIterator[Message]) -> None:
        """Sends the messages as they come, as fast as the service takes them, and answers with the one response."""
        # It may be waiting for the client and not for the service, so it is the task that has to be cut.
        task = asyncio.current_task()
        self._in_flight.add(task)
        try:
            async for message in messages:
                await call.write(message.SerializeToString())
            await call.done_writing()
        except asyncio.InvalidStateError:  # the service has answered before the end: its answer counts
            pass
        except grpc.aio.AioRpcError:
            raise
        except asyncio.CancelledError:
            call.cancel()
            if self._cut:
                raise _restarting() from None
            raise
        except BaseException:
            call.cancel()
            raise
        finally:
            self._in_flight.discard(task)
        await self.unary(exchange, route, call)

    async def events(self, exchange: HttpExchange, route: Route, call: Any, status_json: StatusJson) -> None:
        """Answers with the messages of a stream as server-sent events.

        Headers go out with the first message, or after `heartbeat_seconds` without one: a call that fails before
        raises AioRpcError and becomes an ordinary HTTP error; one that fails later ends the stream with `error`.
        """
        stream = _EventStream(exchange, call, self._heartbeat_seconds)
        try:
            async with self._watched(exchange, call), stream.heartbeat():
                number = 0
                async for raw in call:
                    number += 1
                    await stream.send(sse.event(number, *await _beside(_event, route, raw)))
                await stream.send(sse.END)
        except (grpc.aio.AioRpcError, ServiceError) as error:
            if not stream.started:
                raise
            await stream.send(sse.error(status_json(error)))
        finally:
            call.cancel()
        await exchange.finish()

    async def file(self, exchange: HttpExchange, route: Route, call: Any) -> None:
        """Answers with the file that a stream brings; whole or cut, as in _whole_or_cut."""
        async with self._whole_or_cut(exchange, call):
            await send_file(exchange, route, call)

    async def lines(self, exchange: HttpExchange, route: Route, call: Any) -> None:
        """Answers with the messages of a stream as lines of JSON; whole or cut, as in _whole_or_cut."""
        headers = [("content-type", LINES), ("content-disposition", "attachment"), ("cache-control", "no-store")]
        async with self._whole_or_cut(exchange, call):
            async for raw in call:
                if not exchange.status:
                    await exchange.start(200, headers)
                await exchange.part(await _beside(response_json, route, raw) + b"\n")
            if not exchange.status:
                await exchange.start(200, headers)
            await exchange.finish()

    @asynccontextmanager
    async def _whole_or_cut(self, exchange: HttpExchange, call: Any) -> AsyncIterator[None]:
        """For an answer that cannot end with an error: nobody may take a part of it for the whole.

        A call that fails before the first byte raises AioRpcError or ServiceError and becomes an ordinary HTTP error;
        one that fails later cuts the connection.
        """
        try:
            async with self._watched(exchange, call):
                yield
        except (grpc.aio.AioRpcError, ServiceError) as error:
            if not exchange.status:
                raise
            _log.warning("answer_cut", route=exchange.route, reason=_reason(error))
            exchange.abort()
        finally:
            call.cancel()

    @asynccontextmanager
    async def _watched(self, exchange: HttpExchange, call: Any) -> AsyncIterator[None]:
        """Cancels the call when the client disconnects, and tells that from a cancellation of ourselves."""
        gone = False

        async def watch() -> None:
            nonlocal gone
            await exchange.disconnected()
            gone = True
            call.cancel()

        watching = asyncio.create_task(watch())
        self._in_flight.add(call)
        try:
            yield
        except asyncio.CancelledError:
            call.cancel()
            if gone:
                raise ClientGoneError from None
            if self._cut:
                raise _restarting() from None
            raise
        except grpc.aio.AioRpcError:
            if gone:
                raise ClientGoneError from None
            raise
        finally:
            self._in_flight.discard(call)
            watching.cancel()


class _EventStream:
    """Whole events onto the wire, one at a time, and a comment when there are none."""

    def __init__(self, exchange: HttpExchange, call: Any, heartbeat_seconds: float) -> None:
        self._exchange = exchange
        self._call = call
        self._heartbeat_seconds = heartbeat_seconds
        self._sending = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._last_sent = self._clock()
        self._stalled = False
        self.started = False
        """Whether headers are out."""

    async def send(self, content: bytes) -> None:
        """SlowReaderError when the client does not take it."""
        async with self._sending:
            if not self.started:
                self.started = True
                await self._exchange.start(
                    200,
                    [("content-type", sse.MEDIA_TYPE), ("cache-control", "no-store"), ("x-accel-buffering", "no")],
                )
                content = sse.opening(RETRY_MS) + content
            await self._exchange.part(content)
            self._last_sent = self._clock()

    @asynccontextmanager
    async def heartbeat(self) -> AsyncIterator[None]:
        """Comments while the block runs; SlowReaderError when one of them is not taken."""
        beating = asyncio.create_task(self._beat())
        try:
            yield
        except asyncio.CancelledError:
            if self._stalled:
                raise SlowReaderError from None
            raise
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._last_sent + self._heartbeat_seconds - self._clock())
            if self._clock() - self._last_sent < self._heartbeat_seconds:
                continue
            try:
                await self.send(sse.HEARTBEAT)
            except SlowReaderError:
                self._stalled = True
                self._call.cancel()
                return


def _reason(error: grpc.aio.AioRpcError | ServiceError) -> str:
    return error.reason if isinstance(error, ServiceError) else error_of(error).reason


def _restarting() -> Unavailable:
    return Unavailable("the gateway is restarting", dependency="gateway")


async def _beside(work: Callable[[Route, bytes], Any], route: Route, raw: bytes) -> Any:
    """The work, in another thread when there is so much of it that others would wait."""
    if len(raw) > LARGE_MESSAGE_BYTES:
        return await asyncio.to_thread(work, route, raw)
    return work(route, raw)


def _event(route: Route, raw: bytes) -> tuple[str, bytes]:
    name = route.response_class.FromString(raw).WhichOneof(route.event_oneof) if route.event_oneof else None
    return name or "message", response_json(route, raw)
