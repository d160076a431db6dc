"""The route table: what the contracts say, and what cannot be served."""

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool

from gateway.http_rule import TemplateError
from gateway.routes import UPSTREAMS, Route, RouteError, RouteTable, registered_routes, registered_services, routes_of
from gateway.status import MethodNotAllowed, RouteNotFound
from prosa.common.v1 import access_pb2
from shared.errors import InvalidArgument


@pytest.fixture(scope="module")
def table() -> RouteTable:
    return RouteTable(registered_routes())


def test_every_method_of_every_service_has_a_route(table: RouteTable) -> None:
    served = {route.method.full_name for route in table}
    for upstream, service in registered_services():
        assert upstream in UPSTREAMS
        for method in service.methods:
            assert method.full_name in served


def test_every_method_says_who_may_call(table: RouteTable) -> None:
    for route in table:
        access = route.method.GetOptions().Extensions[access_pb2.access]
        assert bool(access.permission) != access.public


@pytest.mark.parametrize(
    ("method", "path", "rpc", "variables"),
    [
        ("POST", "/v1/assistants/a1:ask", "Ask", {"assistant_id": "a1"}),
        ("POST", "/v1/documents:upload", "UploadDocument", {}),
        ("GET", "/v1/documents/d:1", "GetDocument", {"document_id": "d:1"}),
        ("GET", "/v1/quota", "GetQuota", {}),
        ("GET", "/v1/tenants/t/users/u/quota", "GetQuota", {"tenant_id": "t", "user_id": "u"}),
        ("GET", "/v1/events:watch", "WatchEvents", {}),
    ],
)
def test_requests_find_their_method(
    table: RouteTable, method: str, path: str, rpc: str, variables: dict[str, str]
) -> None:
    route, bound = table.find(method, path)
    assert (route.method.name, bound) == (rpc, variables)


def test_what_is_not_there_is_not_found(table: RouteTable) -> None:
    for path in ("/", "/v1", "/v1/", "/v2/quota", "/v1/conversations/", "/v1/conversations/a/b", "//v1/quota"):
        with pytest.raises(RouteNotFound):
            table.find("GET", path)
    with pytest.raises(MethodNotAllowed, match="GET, PATCH"):
        table.find("DELETE", "/v1/tenants/t")
    with pytest.raises(InvalidArgument):
        table.find("GET", "/v1/conversations/%ff")


def _routes(http: dict[str, object], *, streaming: str = "", oneof: str = "", path: str = "x") -> list[Route]:
    """The routes of a service made up for the occasion, with one method per rule."""
    name = f"made_up_{abs(hash((str(http), streaming, oneof)))}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    message = file.message_type.add(name="Thing")
    for number, (field, kind) in enumerate([("id", 9), ("data", 12), ("count", 5), ("tags", 9)], start=1):
        label = 3 if field == "tags" else 1
        message.field.add(name=field, number=number, type=kind, label=label, json_name=field)
    if oneof:
        message.oneof_decl.add(name="kind")
        message.field.add(name=oneof, number=9, type=9, label=1, oneof_index=0, json_name=oneof)
    service = file.service.add(name="Things")
    method = service.method.add(name="Do", input_type=f".{name}.Thing", output_type=f".{name}.Thing")
    method.client_streaming = "client" in streaming
    method.server_streaming = "server" in streaming
    rule = method.options.Extensions[annotations_pb2.http]
    for key, value in http.items():
        if key == "custom":
            rule.custom.kind, rule.custom.path = "report", str(value)
        else:
            setattr(rule, key, value)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return list(routes_of("chat_store", pool.FindServiceByName(f"{name}.Things")))


def test_other_http_methods_can_be_bound() -> None:
    (route,) = _routes({"custom": "/v1/things/{id}"})
    assert (route.http_method, route.rpc_path.rpartition("/")[2]) == ("REPORT", "Do")


@pytest.mark.parametrize(
    ("http", "streaming"),
    [
        ({"get": "/v1/{nothing}"}, ""),
        ({"get": "/v1/{tags}"}, ""),
        ({"get": "/v1/{id.deeper}"}, ""),
        ({"post": "/v1/a", "body": "nothing"}, ""),
        ({"post": "/v1/a", "body": "*"}, "client"),
        ({"post": "/v1/a", "body": "id"}, "client"),
        ({"post": "/v1/a", "body": "data"}, "client, server"),
        ({"body": "*"}, ""),
        ({"get": "/v1/a", "response_body": "nothing"}, ""),
    ],
)
def test_a_rule_that_cannot_be_served_is_an_error_at_start(http: dict[str, object], streaming: str) -> None:
    with pytest.raises(RouteError):
        _routes(http, streaming=streaming)


def test_a_template_that_is_none_is_an_error_at_start() -> None:
    with pytest.raises(TemplateError):
        _routes({"get": "no/slash"})


def test_events_may_not_take_the_gateways_own_names() -> None:
    (route,) = _routes({"get": "/v1/stream"}, streaming="server", oneof="news")
    assert route.event_oneof == "kind"
    with pytest.raises(RouteError, match="error"):
        _routes({"get": "/v1/stream"}, streaming="server", oneof="error")


def test_a_stream_whose_body_is_bytes_is_a_file() -> None:
    (file,) = _routes({"get": "/v1/file", "response_body": "data"}, streaming="server")
    assert (file.file_field, file.response_body) == ("data", "")
    (text,) = _routes({"get": "/v1/text", "response_body": "id"}, streaming="server")
    assert (text.file_field, text.response_body) == ("", "id")
    (answer,) = _routes({"get": "/v1/answer", "response_body": "data"})
    assert (answer.file_field, answer.response_body) == ("", "data")


def test_two_routes_for_the_same_requests_are_an_error_at_start() -> None:
    one, other = _routes({"get": "/v1/one/{id}"}), _routes({"get": "/v1/one/*"})
    with pytest.raises(RouteError, match="conflicts"):
        RouteTable(one + other)
    assert list(RouteTable(one + _routes({"put": "/v1/one/{id}", "body": "*"})))


def test_open_ended_routes_take_what_nobody_else_takes() -> None:
    table = RouteTable(_routes({"get": "/v1/files/{id=**}"}) + _routes({"get": "/v1/files/{id}"}))
    assert table.find("GET", "/v1/files/a/b/c/d/e")[1] == {"id": "a/b/c/d/e"}
    assert table.find("GET", "/v1/files/a")[0].template.text == "/v1/files/{id}"
