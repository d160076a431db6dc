"""A Filter as SQL: which documents of the libraries in reach may be found.

Names and values of metadata are always parameters, never part of the statement.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from services.document_rag.ids import uuids
from services.document_rag.model import Comparison, Condition, Filter, MetadataValue

_OPERATORS = {
    Comparison.EQ: "=",
    Comparison.NE: "=",
    Comparison.GT: ">",
    Comparison.GTE: ">=",
    Comparison.LT: "<",
    Comparison.LTE: "<=",
}

# A text that is no moment is compared with none. The pattern comes first: the type itself takes "yesterday", too.
_RFC_3339 = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$"
_MOMENT = """case when jsonb_typeof({value}) = 'string' and {value} #>> '{{}}' ~ {pattern}
        and pg_input_is_valid({value} #>> '{{}}', 'timestamptz')
    then ({value} #>> '{{}}')::timestamptz end"""
_NUMBER = "case when jsonb_typeof({value}) = 'number' then ({value})::numeric end"
_TEXT = "case when jsonb_typeof({value}) = 'string' then {value} #>> '{{}}' collate \"C\" end"


class Parameters(list[object]):
    """The parameters of a statement; `add` gives each its place."""

    def add(self, value: object) -> str:
        """The placeholder under which the statement names the value."""
        self.append(value)
        return f"${len(self)}"


async def matching_documents(
    connection: asyncpg.Connection, libraries: Sequence[str], wanted: Filter
) -> list[UUID] | None:
    """The documents that the filter allows; None when it allows all of the libraries'."""
    if not wanted.is_narrow:
        return None
    parameters = Parameters()
    conditions = [f"tenant_id = any({parameters.add(list(libraries))}::text[])", "deleted_at is null"]
    if wanted.document_ids or wanted.collection_ids:
        documents = parameters.add(uuids(wanted.document_ids))
        collections = parameters.add(uuids(wanted.collection_ids))
        conditions.append(f"(document_id = any({documents}::uuid[]) or collection_id = any({collections}::uuid[]))")
    if wanted.languages:
        conditions.append(f"language = any({parameters.add(list(wanted.languages))}::text[])")
    conditions += [metadata_condition(each, parameters) for each in wanted.conditions]
    statement = f"select document_id from documents where {' and '.join(conditions)}"  # noqa: S608  (parameters only)
    return [row["document_id"] for row in await connection.fetch(statement, *parameters)]


def metadata_condition(condition: Condition, parameters: Parameters, column: str = "metadata") -> str:
    """The condition as SQL over a jsonb object `column`, its field and values added to the parameters."""
    value = f"({column} -> {parameters.add(condition.field)}::text)"
    match condition.comparison:
        case Comparison.EXISTS:
            wanted = condition.values == () or bool(condition.values[0])
            return f"({value} is not null) = {parameters.add(wanted)}::boolean"
        case Comparison.IN:
            return f"({' or '.join(_compared(value, '=', each, parameters) for each in condition.values)})"
        case Comparison.NE:
            return f"{_compared(value, '=', condition.values[0], parameters)} is not true"
        case _:
            return f"({_compared(value, _OPERATORS[condition.comparison], condition.values[0], parameters)})"


def _compared(value: str, operator: str, other: MetadataValue, parameters: Parameters) -> str:
    """A boolean, or null where the field is missing or of another type."""
    match other:
        case bool():
            return f"{value} = {parameters.add(other)}::jsonb"
        case datetime():
            moment = _MOMENT.format(value=value, pattern=f"{parameters.add(_RFC_3339)}::text")
            return f"({moment} {operator} {parameters.add(other)}::timestamptz)"
        case str():
            return f"({_TEXT.format(value=value)} {operator} {parameters.add(other)}::text)"
        case _:
            return f"({_NUMBER.format(value=value)} {operator} {parameters.add(json.dumps(other))}::text::numeric)"
