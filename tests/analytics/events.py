"""Events as chat_store sends them, and an oracle that counts them without any of the service's code."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from prosa.chat_store.v1 import conversation_service_pb2 as chat_pb
from prosa.chat_store.v1 import feed_service_pb2 as feed_pb

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

# What the oracle counts; how long things took is looked at by itself.
COUNTED = (
    "turns",
    "rag_turns",
    "errors",
    "user_messages",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_micros",
)

OracleKey = tuple[str, datetime, str, str, str]


def question(
    *, at: datetime = NOON, user_id: str = "ana", text: str = "Quando vence o IPTU?", message_id: str = ""
) -> chat_pb.Message:
    """What a person typed."""
    message = chat_pb.Message(message_id=message_id, type=chat_pb.MESSAGE_TYPE_USER, text=text, user_id=user_id)
    message.create_time.FromDatetime(at)
    return message


def answer(
    *,
    at: datetime = NOON,
    model: str = "extractive",
    assistant_id: str = "helper",
    rag: bool = True,
    tokens: tuple[int, int, int, int] = (100, 40, 20, 5),
    cost_micros: int = 7,
    type: chat_pb.MessageType.ValueType = chat_pb.MESSAGE_TYPE_ASSISTANT,  # noqa: A002 the contract's word
    status: chat_pb.MessageStatus.ValueType = chat_pb.MESSAGE_STATUS_COMPLETE,
) -> chat_pb.Message:
    """What an assistant answered."""
    message = chat_pb.Message(
        type=type,
        status=status,
        text="O IPTU vence em 10 de março.",
        assistant_id=assistant_id,
        model=model,
        rag=rag,
        cost_micros=cost_micros,
        latency_ms=850,
    )
    usage = message.usage
    usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens = tokens
    message.create_time.FromDatetime(at)
    return message


def appended(
    event_id: str, *messages: chat_pb.Message, tenant_id: str = "acme", user_id: str = "ana", conversation_id: str = "c"
) -> feed_pb.Event:
    """Messages were appended."""
    payload = feed_pb.MessagesAppended(messages=messages, user_id=user_id, assistant_id="helper", channel="web")
    event = feed_pb.Event(
        event_id=event_id, tenant_id=tenant_id, conversation_id=conversation_id, messages_appended=payload
    )
    if messages:
        event.event_time.CopyFrom(messages[-1].create_time)
    return event


def many_events(
    count: int, *, seed: int = 1, tenants: Sequence[str] = ("acme", "beta"), hours: int = 5
) -> list[feed_pb.Event]:
    """Events of every kind over some hours; the same seed gives the same events."""
    chance = random.Random(seed)
    return [_any_event(number, chance, tenants, hours) for number in range(count)]


def _any_event(number: int, chance: random.Random, tenants: Sequence[str], hours: int) -> feed_pb.Event:
    at = NOON + timedelta(seconds=chance.randrange(hours * 3600))
    user_id = chance.choice(["ana", "bia", ""])
    asked = question(at=at, user_id=user_id)
    answered = answer(
        at=at,
        model=chance.choice(["extractive", "gpt-x"]),
        assistant_id=chance.choice(["helper", "taxes"]),
        rag=chance.random() < 0.5,
        tokens=(chance.randrange(1000), chance.randrange(1000), chance.randrange(500), chance.randrange(50)),
        cost_micros=chance.randrange(10_000),
        type=chance.choice([chat_pb.MESSAGE_TYPE_ASSISTANT, chat_pb.MESSAGE_TYPE_TEAM, chat_pb.MESSAGE_TYPE_ERROR]),
        status=chance.choice(
            [chat_pb.MESSAGE_STATUS_COMPLETE, chat_pb.MESSAGE_STATUS_INTERRUPTED, chat_pb.MESSAGE_STATUS_ERROR]
        ),
    )
    messages = chance.choice([[asked], [answered], [asked, answered]])
    return appended(f"e{number}", *messages, tenant_id=chance.choice(tenants), user_id=user_id)


def oracle(events: Iterable[feed_pb.Event]) -> dict[OracleKey, Counter[str]]:
    """What the rollups must hold after these events, however often and in whatever order they came."""
    sums: dict[OracleKey, Counter[str]] = {}
    for event in {event.event_id: event for event in events}.values():
        owner = event.messages_appended.user_id
        for message in event.messages_appended.messages:
            hour = message.create_time.ToDatetime(UTC).replace(minute=0, second=0, microsecond=0)
            key = (event.tenant_id, hour, message.model, message.user_id or owner, message.assistant_id or "helper")
            sums.setdefault(key, Counter()).update(_counts(message))
    return sums


def _counts(message: chat_pb.Message) -> Counter[str]:
    speaks = message.type in (chat_pb.MESSAGE_TYPE_ASSISTANT, chat_pb.MESSAGE_TYPE_TEAM)
    broken = message.status == chat_pb.MESSAGE_STATUS_ERROR
    return Counter(
        turns=int(speaks and not broken),
        rag_turns=int(speaks and not broken and message.rag),
        errors=int((speaks and broken) or message.type == chat_pb.MESSAGE_TYPE_ERROR),
        user_messages=int(message.type == chat_pb.MESSAGE_TYPE_USER),
        input_tokens=message.usage.input_tokens,
        cached_input_tokens=message.usage.cached_input_tokens,
        output_tokens=message.usage.output_tokens,
        reasoning_tokens=message.usage.reasoning_tokens,
        cost_micros=message.cost_micros,
    )
