"""Every call of a service, told to the audit: who, through whom, what, to which resource, with which outcome.

What there is to know of a method is in its descriptor, so a new RPC is watched without a line here. What the street
refuses (no credential, no permission, not valid) reaches no method: it is in the logs and metrics, not in the audit.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from prosa.common.v1 import access_pb2
from services.chat_store.audit import Audit
from services.chat_store.audit_chain import AuditEntry
from services.chat_store.reach import actor_of
from shared.caller import current_caller
from shared.clock import Clock, SystemClock
from shared.errors import ServiceError
from shared.server import Endpoint

OK = "OK"
STARTED = "STARTED"
CANCELLED = "CANCELLED"
INTERNAL = "INTERNAL"
PRIVACY = "privacy.manage"

# What a request names, from the outer to the inner: "conversations/c1/messages/m1".
_COLLECTIONS = {
    "user_id": "users",
    "conversation_id": "conversations",
    "message_id": "messages",
    "task_id": "tasks",
    "event_id": "events",
}

_Unary: TypeAlias = Callable[[Any, Any], Awaitable[Message]]
_Streaming: TypeAlias = Callable[[Any, Any], AsyncGenerator[Message, None]]


def resource_of(user_id: str = "", conversation_id: str = "") -> str:
    """The name under which the audit knows a user or a conversation."""
    named = {"user_id": user_id, "conversation_id": conversation_id}
    return "/".join(f"{_COLLECTIONS[name]}/{value}" for name, value in named.items() if value)


def audited(endpoint: Endpoint, audit: Audit, clock: Clock | None = None) -> Endpoint:
    """The same endpoint, each of its calls told to the audit."""
    service = descriptor_pool.Default().FindServiceByName(endpoint.full_name)
    return replace(endpoint, servicer=_Watched(endpoint.servicer, service.methods, audit, clock or SystemClock()))


def waits_for_its_entry(method: MethodDescriptor) -> bool:
    """By its route: all but GET, and POST to a collection; but handing out a person's data is more than reading."""
    options = method.GetOptions()
    rule = options.Extensions[annotations_pb2.http]
    adds = bool(rule.post) and ":" not in rule.post
    return not (rule.get or adds) or options.Extensions[access_pb2.access].permission == PRIVACY


class _Watched:
    """A servicer that answers as the one within it."""

    def __init__(self, servicer: object, methods: Sequence[MethodDescriptor], audit: Audit, clock: Clock) -> None:
        for method in methods:
            watch = _Watch(method, audit, clock)
            answer = getattr(servicer, method.name)
            setattr(self, method.name, watch.streaming(answer) if method.server_streaming else watch.unary(answer))


class _Watch:
    """What is known of a method before it is called."""

    def __init__(self, method: MethodDescriptor, audit: Audit, clock: Clock) -> None:
        self._action = f"{method.containing_service.name}.{method.name}"
        self._audit = audit
        self._clock = clock
        self._waits = waits_for_its_entry(method)
        asked, answered = method.input_type.fields_by_name, method.output_type.fields_by_name
        self._asked = [name for name in _COLLECTIONS if name in asked]
        self._answered = frozenset(name for name in self._asked if name in answered)

    def unary(self, answer: _Unary) -> _Unary:
        async def watched(request: Message, context: Any) -> Message:
            try:
                response = await answer(request, context)
            except BaseException as error:
                self._note(request, _outcome_of(error))
                raise
            if self._waits:
                await self._audit.keep(current_caller().tenant_id, self._entry(request, OK, response))
            else:
                self._note(request, OK, response)
            return response

        return watched

    def streaming(self, answer: _Streaming) -> Callable[[Any, Any], AsyncIterator[Message]]:
        """Told when it starts, since it may go on for hours, and once more when it ends by an error."""

        async def watched(request: Message, context: Any) -> AsyncIterator[Message]:
            if self._waits:
                await self._audit.keep(current_caller().tenant_id, self._entry(request, STARTED))
            else:
                self._note(request, STARTED)
            try:
                async with aclosing(answer(request, context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:
                self._note(request, _outcome_of(error))
                raise

        return watched

    def _note(self, request: Message, outcome: str, response: Message | None = None) -> None:
        self._audit.note(current_caller().tenant_id, self._entry(request, outcome, response))

    def _entry(self, request: Message, outcome: str, response: Message | None = None) -> AuditEntry:
        caller, now = current_caller(), self._clock.now()
        return AuditEntry(
            # To milliseconds: what a store gives back must be what was hashed.
            time=now.replace(microsecond=now.microsecond // 1000 * 1000),
            actor=actor_of(caller),
            on_behalf_of=caller.through,
            action=self._action,
            resource=self._resource(request, response),
            outcome=outcome,
        )

    def _resource(self, request: Message, response: Message | None) -> str:
        """Ids that the service chose are in the response only."""
        named = []
        for name in self._asked:
            value = getattr(request, name)
            if not value and response is not None and name in self._answered:
                value = getattr(response, name)
            if value:
                named.append(f"{_COLLECTIONS[name]}/{value}")
        return "/".join(named)


def _outcome_of(error: BaseException) -> str:
    if isinstance(error, ServiceError):
        return error.reason
    return CANCELLED if isinstance(error, asyncio.CancelledError) else INTERNAL
