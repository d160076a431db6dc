"""What prosa-ingest shows: bars on a terminal, a line a file elsewhere, a summary at the end; failures; or JSON."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.document_rag.commands.chosen_files import ChosenFile, legible
from services.document_rag.commands.uploads import FAILED, Outcome
from services.document_rag.commands.words import Words

_NAME_WIDTH = 44


class IngestView(Protocol):
    """Shows files on their way; used as a context manager around all of them."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def stage(self, file: ChosenFile, name: str, done: int = 0, total: int = 0) -> None:
        """A file is in this stage."""
        ...

    def ended(self, outcome: Outcome) -> None:
        """A file has come to its end."""
        ...

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        """All files have."""
        ...


class _NoProgress:
    """Says nothing until a file ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def stage(self, *_: object, **__: object) -> None:
        return


class JsonView(_NoProgress):
    """A JSON object a file as each ends, then one of the totals, on standard output."""

    def ended(self, outcome: Outcome) -> None:
        _write(
            {
                "file": legible(outcome.file.path),
                "source": outcome.file.source,
                "state": outcome.state,
                "verdict": outcome.verdict,
                "documentId": outcome.document_id,
                "relatedDocumentId": outcome.related_document_id,
                "reason": outcome.error_reason,
                "message": outcome.message,
            }
        )

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        states, verdicts = (Counter(getattr(each, of) for each in outcomes) for of in ("state", "verdict"))
        verdicts.pop("", None)
        _write({"files": len(outcomes), "states": dict(states), "verdicts": dict(verdicts)})


class QuietView(_NoProgress):
    """A line for each file that failed, and nothing else."""

    def __init__(self, console: Console, words: Words) -> None:
        self._console = console
        self._words = words

    def ended(self, outcome: Outcome) -> None:
        if outcome.state == FAILED:
            _print_line(self._console, self._words, outcome)

    def summary(self, _outcomes: Sequence[Outcome]) -> None:
        return


class TerminalView:
    """Bars while it is a terminal, else a line a file; then a table of verdicts and one of what failed."""

    def __init__(self, console: Console, words: Words, total: int) -> None:
        self._console = console
        self._words = words
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[stage]}"),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task(words("files"), total=total, stage="")
        self._tasks: dict[ChosenFile, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def stage(self, file: ChosenFile, name: str, done: int = 0, total: int = 0) -> None:
        if file not in self._tasks:
            self._tasks[file] = self._progress.add_task(file.source[-_NAME_WIDTH:], total=None, stage="")
        known = total or None
        self._progress.update(self._tasks[file], completed=done, total=known, stage=self._words(name))

    def ended(self, outcome: Outcome) -> None:
        if task := self._tasks.pop(outcome.file, None):
            self._progress.remove_task(task)
        self._progress.advance(self._all)
        if not self._console.is_terminal or outcome.state == FAILED:
            _print_line(self._progress.console, self._words, outcome)

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        table = Table(self._words("verdict"), self._words("state"))
        table.add_column(self._words("count"), justify="right")
        kinds = Counter((each.verdict, each.state) for each in outcomes)
        for (verdict, state), count in kinds.most_common():
            table.add_row(self._words(verdict), self._words(state), str(count))
        self._console.print(table)
        self._tell_why([each for each in outcomes if each.message])

    def _tell_why(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        table = Table(self._words("file"), self._words("why"))
        for each in outcomes:
            table.add_row(each.file.source, self._words.error(each.error_reason, each.message))
        self._console.print(table, markup=False)


def _print_line(console: Console, words: Words, outcome: Outcome) -> None:
    shown = outcome.state if outcome.state == FAILED else outcome.verdict or outcome.state
    why = words.error(outcome.error_reason, outcome.message) if outcome.message else ""
    told = [outcome.file.source, words(shown), why]
    console.print(": ".join(filter(None, told)), markup=False, highlight=False, soft_wrap=True)


def _write(record: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()
