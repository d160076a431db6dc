"""What a message is on the wire is made once, for as long as the message is there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from prosa.chat_store.v1 import conversation_service_pb2 as pb
from services.chat_store.model import (
    Body,
    Draft,
    Feedback,
    Message,
    MessageType,
    Part,
    PartKind,
    Reference,
    Sentiment,
    Tokens,
    UsageSource,
)
from services.chat_store.wire.identity_memo import IdentityMemo
from services.chat_store.wire.messages import framed, message_to_proto

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
PLAIN = Message(1, AT, Draft(MessageType.USER, "olá", message_id="m1", user_id="ana"))
FULL = Message(
    2,
    AT + timedelta(days=1),
    Draft(
        MessageType.ASSISTANT,
        "início",
        message_id="m2",
        rag=True,
        references=(Reference(1, "d1", 2, "Guia", "c1", 3, 4, 5, "trecho", 0.5),),
        tokens=Tokens(7, 1, 5, 2),
        usage_source=UsageSource.PROVIDER,
        cost_micros=9,
        latency_ms=900,
        metadata='{"a":[1,null]}',
        parts=(Part(PartKind.TEXT, text="mais"), Part(PartKind.DATA, data=""), Part(PartKind.FILE, uri="s3://x")),
        reply_to="m1",
        body=Body(300_000, "ab"),
    ),
    revision=3,
    edits=2,
    update_time=AT + timedelta(days=2),
    feedback=Feedback(5, "bom", sentiment=Sentiment.POSITIVE, user_id="ana", time=AT),
    analysis_ids=("a1", "a2"),
)


@pytest.mark.parametrize("response", [pb.ListMessagesResponse, pb.AppendMessagesResponse])
def test_frames_are_the_messages_of_every_response_that_lists_them(
    response: type[pb.ListMessagesResponse | pb.AppendMessagesResponse],
) -> None:
    wanted = response(messages=[message_to_proto(PLAIN), message_to_proto(FULL)])
    for _ in ("made", "kept"):
        assert response.FromString(framed([PLAIN, FULL])) == wanted


def test_times_are_exact_on_both_sides_of_1970() -> None:
    for moment in (AT, AT.replace(year=1), AT.replace(year=1969), AT.replace(year=9999)):
        sent = message_to_proto(replace(PLAIN, create_time=moment))
        assert sent.create_time.ToDatetime(UTC) == moment


def test_a_changed_message_is_not_taken_for_what_it_was() -> None:
    assert framed([PLAIN]) != framed([replace(PLAIN, revision=1)])


class Source:
    """Something to make something of; all are equal, none can be hashed."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def test_each_object_is_made_something_of_once() -> None:
    numbers = count(1)
    memo = IdentityMemo[Source, int](lambda _: next(numbers))
    first, second = Source(), Source()
    assert [memo.of(first), memo.of(second), memo.of(first), memo.of(second)] == [1, 2, 1, 2]


def test_what_was_made_goes_with_its_object() -> None:
    memo = IdentityMemo[Source, int](id)
    kept = Source()
    for _ in range(100):
        assert memo.of(Source()) != memo.of(kept)
    assert len(memo) == 1


def test_what_could_not_be_made_is_asked_for_again() -> None:
    def fails(_: Source) -> int:
        raise ValueError("not made")

    source, memo = Source(), IdentityMemo[Source, int](fails)
    for _ in range(2):
        with pytest.raises(ValueError, match="not made"):
            memo.of(source)
    assert len(memo) == 0
