"""Path, query and body → request, as tables; and that whatever JSON comes, the answer is a request or a refusal."""

import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from gateway.routes import Route, RouteTable, registered_routes
from gateway.transcode import json_of, request_of
from prosa.chat_store.v1 import conversation_service_pb2 as chat
from prosa.document_rag.v1 import assistant_service_pb2 as rag
from shared.errors import InvalidArgument

MESSAGES = "/v1/conversations/c/messages"
TABLE = RouteTable(registered_routes())


def made(method: str, target: str, body: object = None) -> Message:
    """The request that a gateway would make of it."""
    path, _, query = target.partition("?")
    route, variables = TABLE.find(method, path)
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return request_of(route, variables, query.encode(), content)


def shown(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        ("GET", "/v1/conversations/a%20b", None, {"conversation_id": "a b"}),
        ("GET", "/v1/conversations?pageSize=5&user_id=u", None, {"page_size": 5, "user_id": "u"}),
        ("GET", "/v1/conversations", None, {}),
        ("GET", "/v1/conversations?userId=", None, {}),
        (
            "GET",
            "/v1/conversations/c/messages?order=MESSAGE_ORDER_NEWEST_FIRST&afterSeq=9007199254740993",
            None,
            {"conversation_id": "c", "order": "MESSAGE_ORDER_NEWEST_FIRST", "after_seq": "9007199254740993"},
        ),
        (
            "GET",
            "/v1/conversations/c/messages?order=2",
            None,
            {"conversation_id": "c", "order": "MESSAGE_ORDER_NEWEST_FIRST"},
        ),
        (
            "GET",
            "/v1/reports/usage?groupBy=DIMENSION_MODEL&groupBy=2&startTime=2026-11-01T00:00:00-03:00&grain=GRAIN_HOUR",
            None,
            {
                "group_by": ["DIMENSION_MODEL", "DIMENSION_USER"],
                "start_time": "2026-11-01T03:00:00Z",
                "grain": "GRAIN_HOUR",
            },
        ),
        ("POST", "/v1/conversations", {}, {}),
        ("POST", "/v1/conversations", None, {}),
        (
            "POST",
            "/v1/conversations",
            {"assistantId": "a", "request_id": "r"},
            {"assistant_id": "a", "request_id": "r"},
        ),
        ("POST", "/v1/reservations/r1:release", None, {"reservation_id": "r1"}),
        ("POST", "/v1/reservations/r1:release", {"reservationId": "r1"}, {"reservation_id": "r1"}),
        (
            "PUT",
            "/v1/tenants/t/quota?userId=u",
            {"tokensPerDay": "10", "enforcement": "ENFORCEMENT_SOFT"},
            {"tenant_id": "t", "user_id": "u", "quota": {"tokens_per_day": "10", "enforcement": "ENFORCEMENT_SOFT"}},
        ),
        (
            "POST",
            "/v1/documents:upload?filename=a.md&metadata=%7B%22ano%22%3A2026%7D",
            None,
            {"filename": "a.md", "metadata": {"ano": 2026.0}},
        ),
        (
            "PATCH",
            "/v1/assistants/a",
            {"assistant": {"displayName": "x"}, "updateMask": "displayName,topK"},
            {"assistant_id": "a", "assistant": {"display_name": "x"}, "update_mask": "displayName,topK"},
        ),
    ],
)
def test_the_parts_of_a_request_make_one_message(
    method: str, target: str, body: object, expected: dict[str, Any]
) -> None:
    assert shown(made(method, target, body)) == expected


@pytest.mark.parametrize(
    ("method", "target", "body", "reason", "field"),
    [
        ("GET", "/v1/conversations?colour=red", None, "MALFORMED_MESSAGE", "colour"),
        ("GET", "/v1/conversations?pageSize=x", None, "VALIDATION_FAILED", "page_size"),
        ("GET", "/v1/conversations?pageSize=1&pageSize=2", None, "MALFORMED_MESSAGE", "page_size"),
        ("GET", "/v1/conversations?pageSize=1&page_size=2", None, "MALFORMED_MESSAGE", "page_size"),
        ("GET", "/v1/conversations?pageSize.x=1", None, "MALFORMED_MESSAGE", "pageSize.x"),
        ("GET", "/v1/conversations?a=%ff", None, "MALFORMED_MESSAGE", ""),
        ("GET", "/v1/conversations/c/messages?conversationId=d", None, "MALFORMED_MESSAGE", "conversationId"),
        ("GET", "/v1/conversations/c/messages?order=NEWEST", None, "VALIDATION_FAILED", "order"),
        ("GET", "/v1/conversations/c/messages?afterSeq=99999999999999999999", None, "VALIDATION_FAILED", "after_seq"),
        ("GET", "/v1/reports/usage?startTime=yesterday", None, "VALIDATION_FAILED", "start_time"),
        ("GET", "/v1/reports/usage?groupBy=DIMENSION_MODEL&groupBy=x", None, "VALIDATION_FAILED", "group_by[1]"),
        ("GET", "/v1/conversations", {"a": 1}, "MALFORMED_MESSAGE", ""),
        ("POST", "/v1/conversations?title=x", {}, "MALFORMED_MESSAGE", "title"),
        ("POST", "/v1/documents:upload?metadata=[1]", None, "VALIDATION_FAILED", "metadata"),
        ("POST", "/v1/documents:upload?metadata={x", None, "VALIDATION_FAILED", "metadata"),
        ("POST", "/v1/documents:upload?metadata.ano=1", None, "MALFORMED_MESSAGE", "metadata.ano"),
        ("POST", "/v1/conversations", {"colour": 1, "hue": 2}, "MALFORMED_MESSAGE", "colour"),
        ("POST", "/v1/conversations", {"title": 5}, "VALIDATION_FAILED", "title"),
        ("POST", "/v1/conversations", {"metadata": [1]}, "VALIDATION_FAILED", "metadata"),
        ("POST", "/v1/conversations", {"userId": "x"}, "MALFORMED_MESSAGE", "userId"),
        ("POST", "/v1/conversations", {"request_id": "a", "requestId": "b"}, "MALFORMED_MESSAGE", "request_id"),
        ("POST", "/v1/conversations/c/messages", {"conversationId": "d"}, "VALIDATION_FAILED", "conversation_id"),
        ("POST", MESSAGES, {"messages": {}}, "VALIDATION_FAILED", "messages"),
        ("POST", MESSAGES, {"messages": [None]}, "VALIDATION_FAILED", "messages[0]"),
        (
            "POST",
            MESSAGES,
            {"messages": [{}, {"seq": {}}]},
            "VALIDATION_FAILED",
            "messages[1].seq",
        ),
        (
            "POST",
            MESSAGES,
            {"messages": [{"usage": {"inputTokens": "1.5"}}]},
            "VALIDATION_FAILED",
            "messages[0].usage.input_tokens",
        ),
        ("PUT", "/v1/tenants/t/quota", {"colour": 1}, "MALFORMED_MESSAGE", "quota.colour"),
        ("PUT", "/v1/tenants/t/quota", [], "VALIDATION_FAILED", "quota"),
        ("POST", MESSAGES, {"messages": [{"usage": ""}]}, "VALIDATION_FAILED", "messages[0].usage"),
        ("POST", MESSAGES, {"messages": [{"userId": "a", "user_id": "b"}]}, "MALFORMED_MESSAGE", "messages[0].user_id"),
        ("PUT", "/v1/tenants/t/quota?quota.enforcement=1", {}, "MALFORMED_MESSAGE", "quota.enforcement"),
        ("PATCH", "/v1/assistants/a", {"updateMask": "display_name"}, "VALIDATION_FAILED", "update_mask"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    method: str, target: str, body: object, reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        made(method, target, body)
    violations = refused.value.violations
    assert (refused.value.reason, violations[0].field if violations else "") == (reason, field)


def test_responses_show_defaults_and_leave_out_what_is_absent() -> None:
    assert json.loads(json_of(rag.AskEvent(text_delta=rag.TextDelta(text="é")))) == {"textDelta": {"text": "é"}}
    assistant = json.loads(json_of(rag.Assistant(assistant_id="a")))
    assert (assistant["topK"], assistant["documentIds"], assistant["model"]) == (0, [], "")
    assert "temperature" not in assistant
    assert json.loads(json_of(chat.Message(seq=1)))["type"] == "MESSAGE_TYPE_UNSPECIFIED"
    assert json_of(chat.ListMessagesResponse(), "messages") == b"[]"


ROUTES = [route for route in TABLE if route.body == "*" and not route.uploads]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(ROUTES), st.data())
def test_any_json_is_a_request_or_a_refusal(route: Route, data: st.DataObject) -> None:
    names = [field.json_name for field in route.method.input_type.fields] + ["colour"]
    content = data.draw(st.dictionaries(st.sampled_from(names), JSON_VALUES, max_size=4))
    variables = {variable.field_path: "x" for variable in route.template.variables}
    try:
        request = request_of(route, variables, b"", json.dumps(content).encode())
    except InvalidArgument:
        return
    assert type(request).FromString(request.SerializeToString()) == request or "NaN" in str(content)


@given(st.sampled_from(list(TABLE)), st.binary(max_size=60))
def test_any_query_is_a_request_or_a_refusal(route: Route, query: bytes) -> None:
    variables = {variable.field_path: "x" for variable in route.template.variables}
    try:
        request_of(route, variables, query, b"")
    except InvalidArgument:
        return
