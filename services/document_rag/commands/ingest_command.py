"""`prosa-ingest`: takes files and folders of documents in.

exit codes:
  0    every file is searchable, or was there already
  1    some files failed; the table says why
  2    the command line is wrong, or nothing matches
  3    the gateway is away or refuses the key; files not tried are counted
  4    no file failed, but some are not searchable yet, or wait for a decision (--on-duplicate ask)
  130  interrupted; the same command goes on where it stopped

A rerun sends nothing that is there: files are recognised by their bytes. What had failed is tried again.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from services.document_rag.commands.chosen_files import ChosenFile, SameSourceError, chosen_files
from services.document_rag.commands.config import CommandConfig
from services.document_rag.commands.gateway_client import GatewayClient, GatewayError
from services.document_rag.commands.ingest_view import IngestView, JsonView, QuietView, TerminalView
from services.document_rag.commands.uploads import FAILED, PENDING, UNDECIDED, Outcome, UploadOptions, take_in
from services.document_rag.commands.words import LANGUAGES, Words

DONE, SOME_FAILED, WRONG_USE, UNREACHABLE, UNFINISHED, INTERRUPTED = 0, 1, 2, 3, 4, 130
POLICIES = ("skip", "replace", "keep_both", "ask")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; the exit code."""
    asked = _parser().parse_args(arguments)
    config = CommandConfig.with_options(asked.url, asked.api_key)
    words, errors = Words(asked.lang or config.words), Console(stderr=True)
    if config.fault:
        return _refused(errors, words(*config.fault))
    try:
        files = list(chosen_files(asked.places, asked.include, asked.exclude))
    except FileNotFoundError as error:
        return _refused(errors, words("missing", error))
    except SameSourceError as error:
        return _refused(errors, words("same_source", *error.args))
    if not files:
        return _refused(errors, words("nothing"))
    view = _view(asked, words, len(files))
    try:
        return asyncio.run(_Ingestion(files, _options(asked), view, words, errors).run(config, asked.jobs))
    except KeyboardInterrupt:
        errors.print(words("interrupted"))
        return INTERRUPTED


class _Ingestion:
    """All files of one run, several at a time."""

    def __init__(
        self, files: Sequence[ChosenFile], options: UploadOptions, view: IngestView, words: Words, errors: Console
    ) -> None:
        self._waiting = list(reversed(files))
        self._options = options
        self._view = view
        self._words = words
        self._errors = errors
        self._outcomes: list[Outcome] = []
        self._fatal: GatewayError | None = None
        self._given_up = 0

    async def run(self, config: CommandConfig, jobs: int) -> int:
        async with GatewayClient.opened(config) as client:
            with self._view:
                await asyncio.gather(*(self._work(client) for _ in range(jobs)))
        self._view.summary(self._outcomes)
        if self._fatal is not None:
            why = self._words.error(self._fatal.reason, self._fatal.message)
            self._errors.print(self._words("unreachable", why), markup=False)
            self._errors.print(self._words("not_tried", len(self._waiting) + self._given_up))
            return UNREACHABLE
        states = {outcome.state for outcome in self._outcomes}
        return SOME_FAILED if FAILED in states else UNFINISHED if states & {PENDING, UNDECIDED} else DONE

    async def _work(self, client: GatewayClient) -> None:
        while self._waiting and self._fatal is None:
            try:
                outcome = await take_in(client, self._waiting.pop(), self._options, self._view)
            except GatewayError as error:
                self._fatal = error
                self._given_up += 1
                return
            self._outcomes.append(outcome)
            self._view.ended(outcome)


def _view(asked: argparse.Namespace, words: Words, total: int) -> IngestView:
    if asked.json:
        return JsonView()
    return QuietView(Console(stderr=True), words) if asked.quiet else TerminalView(Console(), words, total)


def _refused(errors: Console, why: str) -> int:
    errors.print(f"prosa-ingest: {why}", markup=False, highlight=False)
    return WRONG_USE


def _options(asked: argparse.Namespace) -> UploadOptions:
    return UploadOptions(
        policy=asked.on_duplicate.replace("-", "_"),
        scope="global" if asked.global_library else "tenant",
        collection_id=asked.collection,
        language=asked.document_language,
        metadata=dict(asked.metadata),
        wait_seconds=0.0 if asked.no_wait else asked.wait_seconds,
    )


def _parser() -> argparse.ArgumentParser:
    about, _, codes = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="prosa-ingest",
        description=about.partition(": ")[2],
        epilog=codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("places", nargs="+", type=Path, metavar="FILE_OR_FOLDER", help="folders are walked with all that is below them")
    add("--url", default="", help="the gateway's address (PROSA_URL, else http://127.0.0.1:8080)")
    add("--api-key", default="", help="better in PROSA_API_KEY, where other users of the machine do not see it")
    add("--include", action="append", default=[], metavar="GLOB", help="only these names; may be repeated")
    add("--exclude", action="append", default=[], metavar="GLOB", help="not these names; may be repeated")
    add("--jobs", type=_positive, default=4, metavar="N", help="files under way at the same time (4)")
    add("--collection", default="", metavar="ID", help="the collection that the documents go into")
    add("--global", dest="global_library", action="store_true", help="into the library that all tenants read")
    add("--document-language", default="", metavar="CODE", help="ISO 639-1; found out from the text when not given")
    add("--metadata", action="append", type=_pair, default=[], metavar="NAME=VALUE", help="VALUE may be JSON")
    add(
        "--on-duplicate",
        choices=[policy.replace("_", "-") for policy in POLICIES],
        default="skip",
        help="what is done with a file that is not new (skip)",
    )
    add("--no-wait", action="store_true", help="do not wait until the documents are searchable")
    add("--wait-seconds", type=float, default=1800.0, metavar="S", help="longest wait for one document (1800)")
    add("--json", action="store_true", help="a JSON object a file and one of totals, on standard output")
    add("--quiet", action="store_true", help="nothing but what failed, on standard error")
    add("--lang", choices=LANGUAGES, default="", help="language of the messages (that of the locale)")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)


def _pair(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
