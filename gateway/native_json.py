"""Response bytes → JSON text by protobuf-py, the Rust runtime that protovalidate stands on: five times json_format.

It is young, so it is used for responses only, and a differential test holds it to json_format for every message that a
route answers with. What it refuses to write, json_format writes.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor
from protobuf import Message, Registry
from protobuf.wkt import FileDescriptorSet


class NativeJson:
    """Writes the JSON of these message types, from their bytes."""

    def __init__(self, types: Iterable[Descriptor]) -> None:
        wanted = {each.full_name: each for each in types}
        registry = _registry([each.file for each in wanted.values()])
        self._classes = {name: _class_of(registry, name) for name in wanted}

    def write(self, full_name: str, raw: bytes) -> bytes:
        """The JSON on one line, defaults of fields without presence shown.

        ValueError or TypeError for a value that JSON does not have, KeyError for a type that was not announced.
        """
        message = self._classes[full_name].from_binary(raw)
        return message.to_json(always_emit_implicit=True).encode()


def _class_of(registry: Registry, name: str) -> type[Message]:
    found = registry.message(name)
    if found is None:
        raise LookupError(name)
    return found.type


def _registry(files: Sequence[FileDescriptor]) -> Registry:
    contracts = descriptor_pb2.FileDescriptorSet()
    known: set[str] = set()
    for file in files:
        _add_with_imports(file, contracts, known)
    return FileDescriptorSet.from_binary(contracts.SerializeToString()).to_registry()


def _add_with_imports(file: FileDescriptor, contracts: descriptor_pb2.FileDescriptorSet, known: set[str]) -> None:
    if file.name in known:
        return
    known.add(file.name)
    for imported in file.dependencies:
        _add_with_imports(imported, contracts, known)
    added = contracts.file.add()
    file.CopyToProto(added)
    _name(added.message_type, file.message_types_by_name)


def _name(messages: Iterable[descriptor_pb2.DescriptorProto], descriptors: Any) -> None:
    """Puts in the JSON names, which generated modules leave out."""
    for message in messages:
        descriptor = descriptors[message.name]
        for field in message.field:
            field.json_name = descriptor.fields_by_name[field.name].json_name
        _name(message.nested_type, descriptor.nested_types_by_name)
