"""What a client may set of something, as the columns of its table. Pure."""

import dataclasses
import enum


def names_of(fields: type) -> tuple[str, ...]:
    """The columns: the dataclass's fields in their order."""
    return tuple(each.name for each in dataclasses.fields(fields))


def places_of(fields: type, first: int) -> str:
    """The parameters of a statement that stand for the columns, from $first on."""
    return ", ".join(f"${place}" for place in range(first, first + len(names_of(fields))))


def values_of(fields: object) -> list[object]:
    """What goes into the columns: tuples as arrays, enums by their value."""
    return [_value(getattr(fields, name)) for name in names_of(type(fields))]


def _value(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, enum.Enum) else value
