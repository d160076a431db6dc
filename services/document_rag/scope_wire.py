"""Scopes and filters between protobuf and the model."""

from collections.abc import Iterable
from datetime import UTC

from prosa.document_rag.v1 import filter_pb2 as pb
from services.document_rag.model import Comparison, Condition, MetadataValue, Scope

_SCOPES = {pb.SCOPE_TENANT: Scope.TENANT, pb.SCOPE_GLOBAL: Scope.GLOBAL}
_COMPARISONS = {
    pb.COMPARISON_UNSPECIFIED: Comparison.EQ,
    pb.COMPARISON_EQ: Comparison.EQ,
    pb.COMPARISON_NE: Comparison.NE,
    pb.COMPARISON_IN: Comparison.IN,
    pb.COMPARISON_GT: Comparison.GT,
    pb.COMPARISON_GTE: Comparison.GTE,
    pb.COMPARISON_LT: Comparison.LT,
    pb.COMPARISON_LTE: Comparison.LTE,
    pb.COMPARISON_EXISTS: Comparison.EXISTS,
}


def scope_to_write(scope: pb.Scope.ValueType) -> Scope:
    """Where something new goes: the tenant, when nothing is said."""
    return _SCOPES.get(scope, Scope.TENANT)


def scope_to_read(scope: pb.Scope.ValueType) -> Scope | None:
    """What is read; None, when nothing is said: the tenant's and the library's."""
    return _SCOPES.get(scope)


def scope_to_proto(scope: Scope) -> pb.Scope.ValueType:
    """Scope → contract."""
    return pb.SCOPE_GLOBAL if scope is Scope.GLOBAL else pb.SCOPE_TENANT


def conditions_of(conditions: Iterable[pb.MetadataCondition]) -> tuple[Condition, ...]:
    """What must hold of the metadata; InvalidArgument for values that do not go with their comparison."""
    return tuple(
        Condition(each.field, _COMPARISONS[each.comparison], tuple(map(_value, each.values))) for each in conditions
    )


def _value(value: pb.MetadataValue) -> MetadataValue:
    match value.WhichOneof("kind"):
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case "time_value":
            return value.time_value.ToDatetime(tzinfo=UTC)
        case _:
            return value.string_value
