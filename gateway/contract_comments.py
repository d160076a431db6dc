"""The comments of the contracts, which the generated modules leave out: read from the sources, at build time only."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2

PROTOS = Path(__file__).resolve().parents[1] / "protos"

# Field numbers in descriptor.proto, of which the paths of source locations are made.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_FIELDS, _NESTED, _NESTED_ENUMS = 2, 3, 4
_VALUES, _METHODS = 2, 2


def contract_comments() -> dict[str, str]:
    """Full name of a service, method, message, field, enum or value → its comment. RuntimeError: protoc refuses."""
    comments: dict[str, str] = {}
    for file in _described().file:
        names = dict(_names(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name is not None and location.leading_comments:
                comments[name] = _clean(location.leading_comments)
    return comments


def _described() -> descriptor_pb2.FileDescriptorSet:
    import grpc_tools
    from grpc_tools import protoc

    roots = [
        PROTOS / "third_party" / "googleapis",
        PROTOS / "third_party" / "protovalidate",
        PROTOS,
        Path(grpc_tools.__file__).parent / "_proto",
    ]
    files = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / "prosa").rglob("*.proto"))
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "contracts.binpb"
        arguments = [f"-I{root}" for root in roots] + ["--include_source_info", f"--descriptor_set_out={output}"]
        if protoc.main(["protoc", *arguments, *files]) != 0:
            raise RuntimeError("protoc refused the contracts")
        return descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (_SERVICES, index), name
        for at, method in enumerate(service.method):
            yield (_SERVICES, index, _METHODS, at), f"{name}.{method.name}"
    for index, message in enumerate(file.message_type):
        yield from _message_names(message, (_MESSAGES, index), file.package)
    for index, enum in enumerate(file.enum_type):
        yield from _enum_names(enum, (_ENUMS, index), file.package)


def _message_names(
    message: descriptor_pb2.DescriptorProto, path: tuple[int, ...], scope: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    name = f"{scope}.{message.name}"
    yield path, name
    for at, field in enumerate(message.field):
        yield (*path, _FIELDS, at), f"{name}.{field.name}"
    for at, nested in enumerate(message.nested_type):
        yield from _message_names(nested, (*path, _NESTED, at), name)
    for at, enum in enumerate(message.enum_type):
        yield from _enum_names(enum, (*path, _NESTED_ENUMS, at), name)


def _enum_names(
    enum: descriptor_pb2.EnumDescriptorProto, path: tuple[int, ...], scope: str
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, f"{scope}.{enum.name}"
    for at, value in enumerate(enum.value):
        yield (*path, _VALUES, at), f"{scope}.{enum.name}.{value.name}"


def _clean(comment: str) -> str:
    """Lines that were broken for width are joined; paragraphs and lists stay."""
    lines = [line.removeprefix(" ").rstrip() for line in comment.strip("\n").splitlines()]
    return re.sub(r"(?<=\S)\n(?=[^\s-])", " ", "\n".join(lines)).strip()
