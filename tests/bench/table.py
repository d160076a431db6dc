"""What a measurement says: our figure beside another's, the ratio, the bar it must clear, and whether it does."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DIRECTORY = Path(".prosa") / "bench"


@dataclass(frozen=True)
class Row:
    """One line of a table. `ratio` is ours / peer; `bar` is in the ratio's scale, None where nothing was promised."""

    case: str
    ours: float
    peer: float
    unit: str
    ratio: float
    bar: float | None
    holds: bool


def at_least(case: str, ours: float, peer: float, unit: str, bar: float, *, ratio: float | None = None) -> Row:
    """More is better: the ratio must reach the bar. `ratio` is given when it is a median of rounds."""
    measured = ours / peer if ratio is None else ratio
    return Row(case, ours, peer, unit, measured, bar, measured >= bar)


def at_most(case: str, ours: float, peer: float, unit: str, bar: float, *, ratio: float | None = None) -> Row:
    """Less is better: the ratio must stay under the bar."""
    measured = ours / peer if ratio is None else ratio
    return Row(case, ours, peer, unit, measured, bar, measured <= bar)


def publish(name: str, rows: Sequence[Row]) -> None:
    """Prints the table and writes `.prosa/bench/<name>.json`."""
    print(render(name, rows))
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    content = json.dumps([asdict(row) for row in rows], indent=2)
    (DIRECTORY / f"{name}.json").write_text(content + "\n", encoding="utf-8")


def render(name: str, rows: Sequence[Row]) -> str:
    """The table as people read it."""
    lines = [(name, "ours", "peer", "unit", "ratio", "bar", "")]
    lines += [
        (
            row.case,
            _figure(row.ours),
            _figure(row.peer),
            row.unit,
            f"{row.ratio:.2f}",
            "" if row.bar is None else f"{row.bar:.2f}",
            "holds" if row.holds else "FAILS",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(_padded(line, widths)).rstrip() for line in lines)


def _padded(line: tuple[str, ...], widths: Sequence[int]) -> list[str]:
    first, *others = zip(line, widths, strict=True)
    return [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
