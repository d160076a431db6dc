"""The route table, read from the descriptors of the registered services: a new RPC needs no gateway code.

A method is served when it carries a google.api.http rule. Whatever is wrong with a rule is an error at start.
"""

import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module

from buf.validate import validate_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.http_rule import Template, Wildcard, conflict, matches, parse, precedence, split_path
from gateway.status import MethodNotAllowed, RouteNotFound, malformed
from prosa.common.v1 import access_pb2

# The one place that names the services behind the gateway: package prosa.<name>.v1, reached at GATEWAY_<NAME>_TARGET.
UPSTREAMS = ("tenant_quota", "chat_store", "document_rag", "analytics")

# Names of server-sent events that the gateway itself sends; a stream's messages may not claim them.
RESERVED_EVENTS = frozenset({"error", "end", "message"})

# The response of methods that answer with a file.
FILE = "google.api.HttpBody"


class RouteError(ValueError):
    """A contract cannot be served over HTTP as it is written; found at start."""


@dataclass(frozen=True)
class Route:
    """One HTTP method and path that stands for one RPC."""

    http_method: str
    template: Template
    body: str
    response_body: str
    method: MethodDescriptor = field(repr=False)
    upstream: str
    public: bool
    request_class: type[Message] = field(repr=False)
    response_class: type[Message] = field(repr=False)
    event_oneof: str
    """The oneof whose set member names a stream's events; empty when the message has none or several."""

    file_field: str
    """The bytes field that holds the pieces of a file in a stream's messages; empty when it is a stream of events."""

    plain_variables: bool
    """Whether every path variable is a string field of the request itself."""

    longest_text: int
    """Most bytes of UTF-8 that a single text of the body may have; 0 when the contract bounds none in bytes."""

    @property
    def rpc_path(self) -> str:
        """The method as gRPC names it."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def uploads(self) -> bool:
        """Whether the body is a file that goes up as a stream."""
        return bool(self.method.client_streaming)

    @property
    def answers_with_file(self) -> bool:
        """Whether the answer is bytes of a media type of their own, not JSON."""
        return bool(self.method.output_type.full_name == FILE)

    @property
    def streams(self) -> bool:
        """Whether the answer comes in many messages."""
        return bool(self.method.server_streaming)


def registered_services() -> Iterator[tuple[str, ServiceDescriptor]]:
    """Every service of every upstream, with the upstream's name."""
    for upstream in UPSTREAMS:
        package = import_module(f"prosa.{upstream}.v1")
        for module in sorted(found.name for found in pkgutil.iter_modules(package.__path__)):
            if module.endswith("_service_pb2"):
                descriptor = import_module(f"{package.__name__}.{module}").DESCRIPTOR
                for service in descriptor.services_by_name.values():
                    yield upstream, service


def registered_routes() -> list[Route]:
    """The routes of every registered service."""
    return [route for upstream, service in registered_services() for route in routes_of(upstream, service)]


def routes_of(upstream: str, service: ServiceDescriptor) -> Iterator[Route]:
    """The routes of one service, additional bindings after their rule; RouteError when a rule is wrong."""
    for method in service.methods:
        options = method.GetOptions()
        if not options.HasExtension(annotations_pb2.http):
            continue
        rule = options.Extensions[annotations_pb2.http]
        public = options.Extensions[access_pb2.access].public
        for binding in (rule, *rule.additional_bindings):
            yield _route(upstream, method, binding, public=public)


class RouteTable:
    """Finds the route of a request; RouteError when two routes stand for the same requests."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes: list[Route] = sorted(routes, key=lambda route: precedence(route.template))
        for index, one in enumerate(self._routes):
            for other in self._routes[index + 1 :]:
                if one.http_method == other.http_method and conflict(one.template, other.template):
                    raise RouteError(
                        f"{one.http_method} {one.template.text} of {one.method.full_name} conflicts with "
                        f"{other.template.text} of {other.method.full_name}"
                    )
        self._open_ended = [route for route in self._routes if Wildcard.REST in route.template.segments]
        self._by_length: dict[int, list[Route]] = {}
        for length in range(1, max((len(route.template.segments) for route in self._routes), default=0) + 1):
            self._by_length[length] = [
                route for route in self._routes if len(route.template.segments) == length or route in self._open_ended
            ]

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def find(self, http_method: str, raw_path: str) -> tuple[Route, Mapping[str, str]]:
        """The route and its path variables; RouteNotFound, MethodNotAllowed, or MALFORMED_MESSAGE for bad UTF-8."""
        segments = split_path(raw_path)
        allowed: list[str] = []
        for route in self._by_length.get(len(segments), self._open_ended):
            covered = matches(route.template, segments)
            if covered is None:
                continue
            if route.http_method == http_method:
                return route, _bound(route.template, covered)
            allowed.append(route.http_method)
            if route.template.verb:
                # What ends like a known verb means that verb, not an id with a colon in it.
                break
        if allowed:
            raise MethodNotAllowed(self._allowed(segments))
        raise RouteNotFound

    def _allowed(self, segments: list[str]) -> list[str]:
        candidates = self._by_length.get(len(segments), self._open_ended)
        covering = [route for route in candidates if matches(route.template, segments) is not None]
        verbs = [route for route in covering if route.template.verb]
        return sorted({route.http_method for route in verbs or covering})


def field_at(descriptor: Descriptor, path: str) -> FieldDescriptor:
    """The field at a dotted path of proto names; RouteError when there is none."""
    *parents, last = path.split(".")
    for name in parents:
        parent = descriptor.fields_by_name.get(name)
        if parent is None or parent.message_type is None or parent.is_repeated:
            raise RouteError(f"{descriptor.full_name} has no message field {name!r}")
        descriptor = parent.message_type
    found = descriptor.fields_by_name.get(last)
    if found is None:
        raise RouteError(f"{descriptor.full_name} has no field {last!r}")
    return found


def _route(upstream: str, method: MethodDescriptor, rule: http_pb2.HttpRule, *, public: bool) -> Route:
    http_method, path = _pattern(method, rule)
    template = parse(path)
    variables = [field_at(method.input_type, each.field_path) for each in template.variables]
    for variable in variables:
        if variable.is_repeated or variable.message_type is not None:
            raise RouteError(f"{method.full_name}: path variable {variable.name} is no plain value")
    _check_body(method, rule.body)
    file_field = _file_field(method, rule.response_body)
    return Route(
        http_method=http_method,
        template=template,
        body=rule.body,
        response_body="" if file_field else rule.response_body,
        method=method,
        upstream=upstream,
        public=public,
        request_class=GetMessageClass(method.input_type),
        response_class=GetMessageClass(method.output_type),
        event_oneof=_event_oneof(method),
        file_field=file_field,
        plain_variables=all(
            variable.type == FieldDescriptor.TYPE_STRING and variable.containing_type is method.input_type
            for variable in variables
        ),
        longest_text=_longest_text(method.input_type, set()) if rule.body else 0,
    )


def _bound(template: Template, segments: list[str]) -> dict[str, str]:
    try:
        return template.bind(segments)
    except UnicodeDecodeError:
        raise malformed("the path is not UTF-8") from None


def _pattern(method: MethodDescriptor, rule: http_pb2.HttpRule) -> tuple[str, str]:
    kind = rule.WhichOneof("pattern")
    if kind is None:
        raise RouteError(f"{method.full_name}: the http rule has no path")
    if kind == "custom":
        return rule.custom.kind.upper(), rule.custom.path
    return kind.upper(), getattr(rule, kind)


def _check_body(method: MethodDescriptor, body: str) -> None:
    if method.client_streaming:
        if method.server_streaming:
            raise RouteError(f"{method.full_name}: streams in both directions do not fit into HTTP")
        if not body or body == "*" or field_at(method.input_type, body).type != FieldDescriptor.TYPE_BYTES:
            raise RouteError(f"{method.full_name}: the body of an upload must be a bytes field")
    elif body and body != "*":
        field_at(method.input_type, body)


def _file_field(method: MethodDescriptor, response_body: str) -> str:
    """The bytes that a stream's messages are for, as `body` names those of an upload."""
    if not response_body:
        return ""
    shown = field_at(method.output_type, response_body)
    return response_body if method.server_streaming and shown.type == FieldDescriptor.TYPE_BYTES else ""


def _longest_text(descriptor: Descriptor, seen: set[str]) -> int:
    seen.add(descriptor.full_name)
    longest = 0
    for each in descriptor.fields:
        rules = each.GetOptions().Extensions[validate_pb2.field]
        longest = max(longest, rules.string.max_bytes, rules.repeated.items.string.max_bytes)
        if each.message_type is not None and each.message_type.full_name not in seen:
            longest = max(longest, _longest_text(each.message_type, seen))
    return longest


def _event_oneof(method: MethodDescriptor) -> str:
    # The oneof that protoc makes for an `optional` field is named after it with an underscore before.
    oneofs = [each for each in method.output_type.oneofs if not _synthetic(each.name, [f.name for f in each.fields])]
    if not method.server_streaming or len(oneofs) != 1:
        return ""
    claimed = RESERVED_EVENTS & {member.name for member in oneofs[0].fields}
    if claimed:
        raise RouteError(f"{method.full_name}: {sorted(claimed)} are names of the gateway's own events")
    return str(oneofs[0].name)


def _synthetic(name: str, members: list[str]) -> bool:
    return members == [name.lstrip("_")] and name.startswith("_")
