"""Messages → JSON Schema: the names and types of their JSON, the rules of buf.validate, the comments."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from buf.validate import validate_pb2
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema: TypeAlias = dict[str, Any]

INT64_PATTERN = r"^-?[0-9]{1,19}$"
UNSIGNED_PATTERN = r"^[0-9]{1,20}$"

_INTEGER = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UNSIGNED = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**32 - 1}
_LONG = {"type": "string", "format": "int64", "pattern": INT64_PATTERN}
_UNSIGNED_LONG = {"type": "string", "format": "uint64", "pattern": UNSIGNED_PATTERN}
_SCALARS: dict[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    **dict.fromkeys([FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32], _INTEGER),
    **dict.fromkeys([FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32], _UNSIGNED),
    **dict.fromkeys([FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64], _LONG),
    **dict.fromkeys([FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64], _UNSIGNED_LONG),
}
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["displayName"]},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
}
_INT32_TYPES = {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32}


class Schemas:
    """The schemas of messages and enums, gathered as they are referred to."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self._owners: dict[str, str] = {}
        self.components: dict[str, Schema] = {}

    def reference(self, descriptor: Descriptor | EnumDescriptor) -> Schema:
        """A $ref to the component of a message or enum; its JSON form itself for well-known types."""
        if descriptor.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[descriptor.full_name])
        name = self._name(descriptor)
        if name not in self.components:
            self.components[name] = {}  # a message may hold itself
            if hasattr(descriptor, "values_by_number"):
                self.components[name] = self._enum(descriptor)
            else:
                self.components[name] = self.message(descriptor)
        return {"$ref": f"#/components/schemas/{name}"}

    def message(
        self, descriptor: Descriptor, *, leave_out: frozenset[str] = frozenset(), closed: bool = False
    ) -> Schema:
        """The schema of a message's JSON, without some of its fields; `closed` when no other name is taken."""
        fields = [field for field in descriptor.fields if field.name not in leave_out]
        schema: Schema = {
            "type": "object",
            "properties": {field.json_name: self.field(field) for field in fields},
        }
        if closed:
            schema["additionalProperties"] = False
        required = [field.json_name for field in fields if field_behavior_pb2.REQUIRED in behaviour(field)]
        if required:
            schema["required"] = required
        return self._described(descriptor.full_name, schema)

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of one field, with its rules and comment."""
        rules = _rules(field)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = field.message_type.fields_by_name["value"]
            schema: Schema = {"type": "object", "additionalProperties": self._element(values, _rules(values))}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._element(field, rules.repeated.items), **_list_rules(rules)}
        else:
            schema = self._element(field, rules)
        if field_behavior_pb2.OUTPUT_ONLY in behaviour(field):
            schema["readOnly"] = True
        if field.GetOptions().debug_redact:
            schema["format"] = "password"
        return self._described(field.full_name, schema)

    def _element(self, field: FieldDescriptor, rules: Any) -> Schema:
        if field.message_type is not None:
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return self._enum_value(field.enum_type, rules)
        schema = dict(_SCALARS[field.type])
        if field.type == FieldDescriptor.TYPE_STRING:
            schema.update(_string_rules(rules.string))
        elif field.type in _INT32_TYPES:
            schema.update(_bounds(rules.int32, integer=True))
        elif field.type == FieldDescriptor.TYPE_DOUBLE:
            schema.update(_bounds(rules.double, integer=False))
        elif field.type == FieldDescriptor.TYPE_INT64:
            schema.update(_long_bounds(rules.int64))
        return schema

    def _enum_value(self, enum: EnumDescriptor, rules: Any) -> Schema:
        chosen, refused = list(getattr(rules.enum, "in")), list(rules.enum.not_in)
        if not chosen and not refused:
            return self.reference(enum)
        allowed = [value.name for value in enum.values if value.number in (chosen or [value.number])]
        allowed = [name for name in allowed if enum.values_by_name[name].number not in refused]
        return {"type": "string", "enum": allowed}

    def _enum(self, enum: Any) -> Schema:
        lines = [
            f"- `{value.name}`: {self._comments.get(f'{enum.full_name}.{value.name}', '')}" for value in enum.values
        ]
        schema = {"type": "string", "enum": [value.name for value in enum.values]}
        described = self._described(enum.full_name, schema)
        described["description"] = "\n".join([described.get("description", ""), "", *lines]).strip()
        return described

    def _described(self, full_name: str, schema: Schema) -> Schema:
        comment = self._comments.get(full_name)
        return {**schema, "description": comment} if comment else schema

    def _name(self, descriptor: Descriptor | EnumDescriptor) -> str:
        """The short name; with its package when another package has it too."""
        owner = self._owners.setdefault(descriptor.name, descriptor.full_name)
        return str(descriptor.name) if owner == descriptor.full_name else str(descriptor.full_name)


def behaviour(field: FieldDescriptor) -> list[int]:
    """The google.api.field_behavior of a field."""
    return list(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


def _rules(field: FieldDescriptor) -> Any:
    return field.GetOptions().Extensions[validate_pb2.field]


def _string_rules(rules: Any) -> Schema:
    found: Schema = {}
    for name, keyword in (("min_len", "minLength"), ("max_len", "maxLength"), ("pattern", "pattern")):
        if rules.HasField(name):
            found[keyword] = getattr(rules, name)
    if rules.HasField("max_bytes"):
        found["maxLength"] = min(rules.max_bytes, found.get("maxLength", rules.max_bytes))
    if rules.email:
        found["format"] = "email"
    return found


def _list_rules(rules: Any) -> Schema:
    found: Schema = {}
    if rules.repeated.HasField("min_items"):
        found["minItems"] = rules.repeated.min_items
    if rules.repeated.HasField("max_items"):
        found["maxItems"] = rules.repeated.max_items
    if rules.repeated.unique:
        found["uniqueItems"] = True
    return found


def _bounds(rules: Any, *, integer: bool) -> Schema:
    found: Schema = {}
    for name, keyword in (
        ("gt", "exclusiveMinimum"),
        ("gte", "minimum"),
        ("lt", "exclusiveMaximum"),
        ("lte", "maximum"),
    ):
        if rules.HasField(name):
            value = getattr(rules, name)
            found[keyword] = value if integer else float(value)
    return found


def _long_bounds(rules: Any) -> Schema:
    """JSON Schema has no bounds for numbers in strings: the sign goes into the pattern, the rest is told."""
    bounds = _bounds(rules, integer=True)
    positive = (rules.HasField("gte") and rules.gte >= 0) or (rules.HasField("gt") and rules.gt >= -1)
    found: Schema = {"pattern": r"^[0-9]{1,19}$"} if positive else {}
    return {**found, **{f"x-{keyword}": value for keyword, value in bounds.items()}}
