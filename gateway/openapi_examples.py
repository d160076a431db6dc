"""Examples for the contract: the words a reader would expect, and else what the schema allows."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor

from gateway.openapi_schema import Schema

_WORDS: Mapping[str, Any] = {
    "question": "Em que dias passa a coleta de lixo no Centro?",
    "query": "coleta de lixo",
    "title": "Coleta de lixo",
    "text": "A coleta passa às terças e quintas, a partir das 7 horas.",
    "quote": "A coleta passa às terças e quintas, a partir das 7 horas.",
    "displayName": "Prefeitura de Exemplo",
    "instructions": "Responda em português, só com o que está nos documentos.",
    "email": "ana@exemplo.gov.br",
    "timeZone": "America/Sao_Paulo",
    "credential": "pk_live_…",
    "password": "quatro palavras ao acaso",
    "newPassword": "outras palavras ao acaso",
    "oldPassword": "quatro palavras ao acaso",
    "tenantId": "prefeitura-de-exemplo",
    "model": "extractive",
    "tokens": "2000",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
MAX_DEPTH = 4


def example_of(schema: Schema, components: Mapping[str, Schema], name: str = "", depth: int = 0) -> Any:
    """A value that the schema allows: of an object its required fields, or its first one."""
    schema = _resolved(schema, components)
    if name in _WORDS and "enum" not in schema and schema.get("type") != "object":
        return _WORDS[name]
    if "enum" in schema:
        return next((value for value in schema["enum"] if not value.endswith("_UNSPECIFIED")), schema["enum"][0])
    match schema.get("type"):
        case "object":
            return _object(schema, components, depth)
        case "array":
            return [example_of(schema["items"], components, name, depth + 1)]
        case "integer" | "number":
            return max(schema.get("minimum", 1), 1)
        case "boolean":
            return True
        case _:
            return _string(schema, name)


def stream_example(output: Descriptor, events: Sequence[str], components: Mapping[str, Schema]) -> str:
    """What a stream looks like on the wire, one event of each name."""
    schema = components.get(str(output.name), {})
    blocks = ["retry: 3000"]
    for number, event in enumerate(events or ["message"], start=1):
        content = {}
        if events:
            member = output.fields_by_name[event].json_name
            content = {member: _whole(schema["properties"][member], components)}
        data = json.dumps(content, ensure_ascii=False)
        blocks.append(f"id: {number}\nevent: {event}\ndata: {data}")
    return "\n\n".join([*blocks, "event: end\ndata: {}", ""])


def _whole(schema: Schema, components: Mapping[str, Schema]) -> Any:
    """An example with the plain fields of a message, not only the required ones."""
    properties = _resolved(schema, components).get("properties", {})
    plain = {name: inner for name, inner in properties.items() if inner.get("type") in ("string", "integer", "number")}
    return {name: example_of(inner, components, name) for name, inner in list(plain.items())[:4]}


def _object(schema: Schema, components: Mapping[str, Schema], depth: int) -> Any:
    properties = schema.get("properties", {})
    wanted = schema.get("required") or [name for name in properties if not properties[name].get("readOnly")][:1]
    if depth >= MAX_DEPTH:
        return {}
    return {name: example_of(properties[name], components, name, depth + 1) for name in wanted}


def _string(schema: Schema, name: str) -> str:
    if schema.get("format") == "date-time":
        return "2026-11-21T12:00:00Z"
    if schema.get("format") in ("int64", "uint64"):
        return "1"
    said = re.search(r'for example "([^"]+)"', schema.get("description", ""))
    if said is not None:
        return said.group(1)
    return f"{re.sub(r'Id$', '', name) or 'text'}-1" if name.endswith("Id") else name or "text"


def _resolved(schema: Schema, components: Mapping[str, Schema]) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return {
        **components[reference.rsplit("/", 1)[-1]],
        **{key: value for key, value in schema.items() if key != "$ref"},
    }
