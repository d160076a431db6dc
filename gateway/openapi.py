"""`python -m gateway.openapi` writes gateway/openapi.json: the contracts as OpenAPI 3.1, for those who speak HTTP.

Made from the descriptors, their rules and comments when contracts change, committed, and served as it is.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from gateway.calls import LINES
from gateway.contract_comments import contract_comments
from gateway.error_texts import LANGUAGES
from gateway.misfits import PLAIN_TYPES
from gateway.openapi_examples import example_of, stream_example
from gateway.openapi_schema import Schema, Schemas
from gateway.routes import Route, RouteTable, field_at, registered_routes
from gateway.site import OPENAPI
from prosa.common.v1 import access_pb2, error_reason_pb2

ABOUT = """Conversations, answers with citations, quotas and reports, over HTTP.

The JSON is that of proto3: 64-bit integers are strings, times are RFC 3339, field masks are "displayName,timeZone".
Responses show every field that has a default; what is absent is left out. A name that a request does not have is
refused. Streams are server-sent events. Every error is a google.rpc.Status; branch on `reason` in its ErrorInfo, and
show people its LocalizedMessage, which is in Portuguese or English as Accept-Language wishes."""

ERROR_STATUSES = {
    "400": "The request is wrong, or the state does not allow it.",
    "401": "No credentials, or nobody stands behind them.",
    "403": "The caller lacks a permission, or names another tenant.",
    "404": "There is no such resource for this caller.",
    "409": "Somebody else was first.",
    "413": "The body is too large.",
    "415": "The body is no JSON.",
    "429": "A limit of the caller is used up; Retry-After says when it begins again.",
    "503": "A service or a datastore is down; try again after Retry-After.",
    "504": "The deadline passed; a retry with the same requestId is safe.",
}
_WITHOUT_BODY = frozenset({"413", "415"})


def document(routes: Iterable[Route], comments: Mapping[str, str]) -> dict[str, Any]:
    """The OpenAPI document of the routes."""
    schemas = Schemas(comments)
    paths: dict[str, dict[str, Any]] = {}
    tags: dict[str, str] = {}
    seen: dict[str, int] = {}
    for route in sorted(routes, key=lambda each: (each.method.full_name, len(each.template.text), each.template.text)):
        service = route.method.containing_service
        tags[service.name] = comments.get(service.full_name, "")
        seen[route.method.full_name] = seen.get(route.method.full_name, 0) + 1
        operation = _operation(route, comments, schemas, seen[route.method.full_name])
        paths.setdefault(_path(route), {})[route.http_method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Prosa", "version": "v1", "description": ABOUT, "license": _LICENSE},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": [{"name": name, "description": text} for name, text in sorted(tags.items())],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": _SECURITY,
            "headers": _HEADERS,
            "responses": {status: _error(text, status) for status, text in ERROR_STATUSES.items()}
            | {"default": _error("Any other error.", "")},
            "schemas": dict(sorted({**schemas.components, **_error_schemas()}.items())),
        },
    }


def _operation(route: Route, comments: Mapping[str, str], schemas: Schemas, number: int) -> Schema:
    method = route.method
    comment = comments.get(method.full_name, "")
    access = method.GetOptions().Extensions[access_pb2.access]
    operation: Schema = {
        "operationId": f"{method.containing_service.name}_{method.name}" + (f"_{number}" if number > 1 else ""),
        "tags": [method.containing_service.name],
        "summary": _summary(comment),
        "description": comment,
        "parameters": _parameters(route, schemas),
        "responses": {**_successes(route, schemas), **_errors(route)},
    }
    body = _request_body(route, schemas)
    if body is not None:
        operation["requestBody"] = body
    if access.public:
        operation["security"] = []
    else:
        operation["x-permission"] = access.permission
    return {key: value for key, value in operation.items() if value != "" and (value != [] or key == "security")}


def _path(route: Route) -> str:
    """The template with JSON names, and without what a variable must look like."""

    def variable(found: re.Match[str]) -> str:
        return "{" + _json_path(route, found.group(1)) + "}"

    return re.sub(r"\{([A-Za-z0-9_.]+)(?:=[^}]*)?\}", variable, route.template.text)


def _parameters(route: Route, schemas: Schemas) -> list[Schema]:
    bound = [variable.field_path for variable in route.template.variables]
    found: list[Schema] = []
    for path in bound:
        schema = schemas.field(field_at(route.method.input_type, path))
        found.append(_parameter(_json_path(route, path), "path", schema, required=True))
    if route.body == "*":
        return found
    for field in route.method.input_type.fields:
        if field.name in bound or field.name == route.body:
            continue
        for name, leaf in _leaves(field, ""):
            found.append(_parameter(name, "query", schemas.field(leaf), required=False))
    return found


def _leaves(field: FieldDescriptor, prefix: str) -> Iterable[tuple[str, FieldDescriptor]]:
    """The plain values that a query can give, by their dotted JSON names."""
    kind = field.message_type
    name = prefix + field.json_name
    if kind is None or kind.full_name in PLAIN_TYPES:
        yield name, field
    elif not field.is_repeated and not kind.full_name.startswith("google.protobuf."):
        for inner in kind.fields:
            yield from _leaves(inner, f"{name}.")


def _parameter(name: str, place: str, schema: Schema, *, required: bool) -> Schema:
    description = schema.pop("description", "")
    found = {"name": name, "in": place, "required": required, "description": description, "schema": schema}
    if schema.get("type") == "object":
        found["content"] = {"application/json": {"schema": found.pop("schema")}}
    if schema.get("type") == "array":
        found["explode"] = True
    return found


def _request_body(route: Route, schemas: Schemas) -> Schema | None:
    if route.uploads:
        return _upload_body(route)
    if not route.body:
        return None
    if route.body == "*":
        bound = frozenset(variable.field_path for variable in route.template.variables)
        schema = schemas.message(route.method.input_type, leave_out=bound, closed=True)
        if bound and not schema["properties"]:
            return None
    else:
        schema = schemas.field(field_at(route.method.input_type, route.body))
    example = example_of(schema, schemas.components)
    return {
        "required": bool(schema.get("required")) or route.body != "*",
        "content": {"application/json": {"schema": schema, "example": example}},
    }


def _upload_body(route: Route) -> Schema:
    form = {
        "type": "object",
        "properties": {
            **{
                field.json_name: {"type": "string"}
                for field in route.method.input_type.fields
                if field.name != route.body and field.type == FieldDescriptor.TYPE_STRING
            },
            "file": {"type": "string", "format": "binary"},
        },
        "required": ["file"],
    }
    return {
        "required": True,
        "description": "The file itself, or a form whose last part is the file.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {"schema": form},
        },
    }


def _successes(route: Route, schemas: Schemas) -> Schema:
    if not route.file_field:
        return {"200": _success(route, schemas)}
    return {
        "200": _download(route, schemas),
        "206": _part(),
        "304": {"description": "The client has it: If-None-Match named its ETag."},
    }


def _success(route: Route, schemas: Schemas) -> Schema:
    output = route.method.output_type
    if route.answers_with_file:
        return {"description": "The file.", "headers": _headers("content-disposition"), "content": _FILE}
    if route.streams:
        return _events(route, schemas)
    shown = field_at(output, route.response_body) if route.response_body else None
    schema = schemas.reference(output) if shown is None else schemas.field(shown)
    return {"description": "OK", "headers": _headers(), "content": {"application/json": {"schema": schema}}}


def _download(route: Route, schemas: Schemas) -> Schema:
    events = _events(route, schemas)
    return {
        "description": "The file, and to who asks for `text/event-stream` its pieces. " + events["description"],
        "headers": _headers("content-disposition", "etag"),
        "content": _FILE | events["content"],
    }


def _part() -> Schema:
    return {
        "description": "The one range of bytes that Range named, while If-Range, if there is one, names its ETag.",
        "headers": _headers("content-disposition", "content-range", "etag"),
        "content": _FILE,
    }


def _events(route: Route, schemas: Schemas) -> Schema:
    output = route.method.output_type
    names = [member.name for oneof in output.oneofs if oneof.name == route.event_oneof for member in oneof.fields]
    text = (
        f"Server-sent events. The data of each is one `{output.name}` as JSON on one line; events are named "
        + ", ".join(f"`{name}`" for name in names or ["message"])
        + ". `error` carries a Status and ends the stream; `end` says that it is whole. To who asks for "
        f"`{LINES}` the same messages, one a line, in an answer that is cut off when it is not whole."
    )
    stream = {
        "schema": {"type": "string", "contentMediaType": "text/event-stream"},
        "x-event-schema": schemas.reference(output),
        "example": stream_example(output, names, schemas.components),
    }
    lines = {"schema": {"type": "string", "contentMediaType": LINES}, "x-line-schema": stream["x-event-schema"]}
    return {"description": text, "headers": _headers(), "content": {"text/event-stream": stream, LINES: lines}}


def _headers(*names: str) -> Schema:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}


def _errors(route: Route) -> Schema:
    statuses = [status for status in ERROR_STATUSES if route.body or status not in _WITHOUT_BODY]
    if route.public:
        statuses.remove("403")
    return {name: {"$ref": f"#/components/responses/{name}"} for name in [*statuses, "default"]}


def _error(text: str, status: str) -> Schema:
    headers = _headers("content-language", *(["retry-after"] if status in ("429", "503") else []))
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
    return {"description": text, "headers": headers, "content": content}


def _error_schemas() -> dict[str, Schema]:
    values = error_reason_pb2.ErrorReason.DESCRIPTOR.values
    reasons = [value.name.removeprefix("ERROR_REASON_") for value in values if value.number]
    return {
        "Status": {
            "type": "object",
            "description": "Every error of the gateway: a google.rpc.Status.",
            "properties": {
                "code": {"type": "integer", "format": "int32", "description": "The google.rpc.Code."},
                "message": {"type": "string", "description": "For developers. May change; branch on the reason."},
                "details": {"type": "array", "items": {"$ref": "#/components/schemas/ErrorDetail"}},
            },
            "required": ["code", "message", "details"],
        },
        "ErrorDetail": {
            "type": "object",
            "description": "A detail: google.rpc.ErrorInfo, RequestInfo and LocalizedMessage always; BadRequest, "
            "QuotaFailure, RetryInfo, ResourceInfo and PreconditionFailure where they apply.",
            "properties": {
                "@type": {"type": "string", "examples": ["type.googleapis.com/google.rpc.ErrorInfo"]},
                "reason": {"type": "string", "description": "Of ErrorInfo.", "examples": reasons},
                "domain": {"type": "string", "description": 'Of ErrorInfo: "prosa".'},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                "locale": {"type": "string", "description": "Of LocalizedMessage.", "enum": list(LANGUAGES)},
                "message": {"type": "string", "description": "Of LocalizedMessage: for people."},
            },
            "required": ["@type"],
            "additionalProperties": True,
        },
    }


def _json_path(route: Route, path: str) -> str:
    names = path.split(".")
    return ".".join(
        field_at(route.method.input_type, ".".join(names[: index + 1])).json_name for index in range(len(names))
    )


def _summary(comment: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=[.:])\s", comment, maxsplit=1)[0].rstrip(":").removesuffix(".")


_FILE = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token of :authenticate."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
}
_HEADERS = {
    "x-request-id": {
        "description": "The id of the trace; tell it when you report a problem.",
        "schema": {"type": "string"},
    },
    "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "content-language": {"description": "The language of the LocalizedMessage.", "schema": {"type": "string"}},
    "content-disposition": {
        "description": "That it is to be saved, and under which name where it has one (RFC 6266).",
        "schema": {"type": "string"},
    },
    "content-range": {"description": "Which bytes of how many these are.", "schema": {"type": "string"}},
    "etag": {"description": "What If-None-Match may name the next time.", "schema": {"type": "string"}},
}


def text() -> str:
    """The document as it is committed."""
    contract = document(RouteTable(registered_routes()), contract_comments())
    return json.dumps(contract, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    OPENAPI.write_text(text(), encoding="utf-8")
