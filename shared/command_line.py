"""`python -m services.<name> [serve | migrate | --help]`: the same three words for every service."""

import argparse
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from pydantic import ValidationError

from shared.config import CannotStartError, ServiceConfig, describe
from shared.errors import ServiceError
from shared.logs import setup_logs
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
    """Runs what the command line asks for; `serve` when it asks for nothing.

    Bad settings end it with status 2, a start that cannot succeed with status 1; both with words, no traceback.
    """
    choices = {"serve": serve} if migrate is None else {"serve": serve, "migrate": migrate}
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings (environment variables):\n\n" + describe(config_class),
    )
    parser.add_argument("command", nargs="?", choices=list(choices), default="serve")
    chosen = parser.parse_args(arguments).command
    try:
        config = config_class()  # type: ignore[call-arg]  # the environment gives the rest
        # First of all: whatever is logged from here on, waiting for a database included, is JSON without secrets.
        setup_logs(name.rpartition(".")[2], config.log_level, config.log_format)
        run(choices[chosen])
    except ValidationError as error:
        # The input is left out on purpose: it may be a secret.
        for problem in error.errors(include_input=False, include_url=False):
            where = ".".join(map(str, problem["loc"])) or "settings"
            _say(f"{name}: {where}: {problem['msg']}")
        sys.exit(2)
    except (CannotStartError, ServiceError) as error:
        _say(f"{name}: {error}")
        sys.exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 the reader is at a terminal
