"""Model ↔ documents: a document has the names of its noun's fields and leaves out what is so by default.

What a document says beside that (keys, places, what indexes need) is not read back.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

Document: TypeAlias = dict[str, Any]
Noun = TypeVar("Noun")

_Codec: TypeAlias = Callable[[Any], Any] | None


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a kind of noun is written and read: its fields with their defaults; those without a codec as they are."""

    writers: tuple[tuple[str, Any, _Codec], ...]
    names: frozenset[str]
    readers: tuple[tuple[str, Callable[[Any], Any]], ...]


_SHAPES: dict[type[Any], _Shape] = {}


def document_of(noun: Any) -> Document:
    """The document of a noun of the model."""
    document: Document = {}
    for name, default, write in _shape(type(noun)).writers:
        value = getattr(noun, name)
        if value != default:
            document[name] = value if write is None else write(value)
    return document


def read(kind: type[Noun], document: Mapping[str, Any]) -> Noun:
    """The noun of that kind that the document holds."""
    shape = _shape(kind)
    known = {name: value for name, value in document.items() if name in shape.names}
    for name, reader in shape.readers:
        if name in known:
            known[name] = reader(known[name])
    return kind(**known)


def _shape(kind: type[Any]) -> _Shape:
    shape = _SHAPES.get(kind)
    if shape is None:
        hints = get_type_hints(kind)
        codecs = {each.name: _codec(hints[each.name]) for each in fields(kind)}
        writers = tuple((each.name, _default(each), codecs[each.name][0]) for each in fields(kind))
        readers = tuple((name, reader) for name, (_, reader) in codecs.items() if reader is not None)
        shape = _SHAPES[kind] = _Shape(writers, frozenset(codecs), readers)
    return shape


def _default(field: "Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _codec(hint: Any) -> tuple[_Codec, _Codec]:
    """How a value of that type is written and read; None = as it is."""
    if get_origin(hint) is UnionType:
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
        return _codec(hint)
    if get_origin(hint) is tuple:
        return _sequence_codec(*_codec(get_args(hint)[0]))
    if isinstance(hint, type) and is_dataclass(hint):
        return document_of, partial(read, hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        # Looking a member up by its value in a dict takes a fifth of what asking the enum takes.
        return (lambda member: member.value), {member.value: member for member in hint}.__getitem__
    return None, None


def _sequence_codec(write: _Codec, reader: _Codec) -> tuple[_Codec, _Codec]:
    if write is None or reader is None:
        return list, tuple
    return (lambda values: [write(each) for each in values]), (lambda values: tuple(map(reader, values)))
