"""`python -m services.<name> [serve | migrate | --help]`: the same three words for every service."""

import argparse
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from pydantic import ValidationError

from shared.config import ServiceConfig, describe
from shared.server import run

Command: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


def command(
    name: str,
    config_class: type[ServiceConfig],
    *,
    serve: Command,
    migrate: Command | None = None,
    arguments: list[str] | None = None,
) -> None:
    """Runs what the command line asks for; `serve` when it asks for nothing. Bad settings end it with status 2."""
    choices = {"serve": serve} if migrate is None else {"serve": serve, "migrate": migrate}
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings (environment variables):\n\n" + describe(config_class),
    )
    parser.add_argument("command", nargs="?", choices=list(choices), default="serve")
    chosen = parser.parse_args(arguments).command
    try:
        run(choices[chosen])
    except ValidationError as error:
        _refuse(name, error)


def _refuse(name: str, error: ValidationError) -> None:
    # The input is left out on purpose: it may be a secret.
    for problem in error.errors(include_input=False, include_url=False):
        where = ".".join(map(str, problem["loc"])) or "settings"
        print(f"{name}: {where}: {problem['msg']}", file=sys.stderr)  # noqa: T201 the reader is at a terminal
    sys.exit(2)
