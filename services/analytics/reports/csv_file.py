"""A report as a CSV file: the rows of its response, a column for each plain value, for people with a spreadsheet."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from services.analytics.reports.calendar import Grain
from services.analytics.reports.model import Dimension

MEDIA_TYPE = "text/csv; charset=utf-8"
# By which spreadsheets know that it is UTF-8.
BYTE_ORDER_MARK = "\ufeff"
TIMESTAMP = "google.protobuf.Timestamp"
RATINGS = 5
FORMATS = {Grain.HOUR: "%Y-%m-%d %H:%M", Grain.DAY: "%Y-%m-%d", Grain.MONTH: "%Y-%m"}
# What a spreadsheet takes for the beginning of a formula, full-width signs included; some skip white space before it.
FORMULA = tuple("=+-@＝＋－＠")
PORTUGUESE = {
    "start_time": "início",
    "model": "modelo",
    "user_id": "usuário",
    "assistant_id": "assistente",
    "team_id": "equipe",
    "channel": "canal",
    "turns": "respostas",
    "rag_turns": "respostas com documentos",
    "errors": "erros",
    "user_messages": "mensagens de pessoas",
    "input_tokens": "tokens de entrada",
    "cached_input_tokens": "tokens de entrada em cache",
    "output_tokens": "tokens de saída",
    "reasoning_tokens": "tokens de raciocínio",
    "cost": "custo",
    "latency_ms": "latência (ms)",
    "time_to_first_token_ms": "tempo até o primeiro token (ms)",
    "tokens_per_second": "tokens por segundo",
    "topic": "assunto",
    "conversations": "conversas",
    "share": "proporção",
    "previous_conversations": "conversas no período anterior",
    "analyses": "conversas analisadas",
    "positive": "positivas",
    "negative": "negativas",
    "neutral": "neutras",
    "resolved": "resolvidas",
    "unresolved": "não resolvidas",
    "average_satisfaction": "satisfação média",
    "feedback": "avaliações",
    "average_rating": "nota média",
    "ratings": "nota",
    "generated_feedback": "avaliações automáticas",
    "active_users": "usuários ativos",
    "new_users": "usuários novos",
    "returning_users": "usuários que já vinham",
    "retained_users": "usuários que voltaram",
    "retention": "retenção",
    "sessions": "sessões",
    "messages": "mensagens",
    "duration_ms": "duração (ms)",
    "error_reason": "motivo do erro",
    "recorded_cost": "custo registrado",
    "corrected_cost": "custo corrigido",
    "difference": "diferença",
    "unpriced_tokens": "tokens sem preço",
    "count": "quantidade",
    "mean": "média",
    "p50": "p50",
    "p95": "p95",
    "p99": "p99",
}
_DIMENSIONS = {dimension.value for dimension in Dimension}
# Its components have names that stand alone.
_NAMELESS = ("usage",)


def csv_file(
    rows: Sequence[Message],
    row: Descriptor,
    *,
    grain: Grain,
    group_by: Sequence[Dimension],
    zone: ZoneInfo,
    portuguese: bool,
) -> bytes:
    """The rows, under headers in Portuguese or English; dimensions only as far as the report is split by them."""
    left_out = _DIMENSIONS - {dimension.value for dimension in group_by}
    fields = [field for field in row.fields if field.name not in left_out]
    text = io.StringIO()
    text.write(BYTE_ORDER_MARK)
    writer = csv.writer(text, delimiter=";" if portuguese else ",", lineterminator="\r\n")
    writer.writerow([_shown_header(path, portuguese=portuguese) for path in csv_header(fields)])
    for each in rows:
        cells = (cell for field in fields for cell in _cells(each, field, zone, FORMATS[grain]))
        writer.writerow([_shown(cell, portuguese=portuguese) for cell in cells])
    return text.getvalue().encode()


def csv_header(fields: Iterable[FieldDescriptor]) -> list[tuple[str, ...]]:
    """The columns of these fields, each by its names from the outside in."""
    return [path for field in fields for path in _paths(field)]


def _paths(field: FieldDescriptor) -> Iterator[tuple[str, ...]]:
    name = field.name.removesuffix("_micros")
    if field.message_type is None:
        yield from ((name, str(number)) for number in range(1, RATINGS + 1)) if field.is_repeated else [(name,)]
    elif field.message_type.full_name == TIMESTAMP:
        yield (name,)
    else:
        before = () if name in _NAMELESS else (name,)
        yield from ((*before, inner.name) for inner in field.message_type.fields)


def _shown_header(path: tuple[str, ...], *, portuguese: bool) -> str:
    return " ".join(PORTUGUESE.get(name, name) for name in path) if portuguese else "_".join(path)


def _cells(row: Any, field: FieldDescriptor, zone: ZoneInfo, time_format: str) -> Iterator[Any]:
    value = getattr(row, field.name)
    if field.is_repeated:
        yield from [*value, *[0] * (RATINGS - len(value))]
    elif field.message_type is None:
        yield _money(value) if field.name.endswith("_micros") else value
    elif field.message_type.full_name == TIMESTAMP:
        yield value.ToDatetime(UTC).astimezone(zone).strftime(time_format) if row.HasField(field.name) else ""
    else:
        yield from (getattr(value, inner.name) for inner in field.message_type.fields)


class _Amount(str):
    """A number that is written out already, with a point."""


def _money(micros: int) -> _Amount:
    whole, part = divmod(abs(micros), 1_000_000)
    return _Amount(f"{'-' if micros < 0 else ''}{whole}.{part:06d}")


def _shown(cell: Any, *, portuguese: bool) -> str:
    if isinstance(cell, str) and not isinstance(cell, _Amount):
        return f"'{cell}" if cell.lstrip().startswith(FORMULA) else cell
    number = f"{cell:.6g}" if isinstance(cell, float) else str(cell)
    return number.replace(".", ",") if portuguese else number
