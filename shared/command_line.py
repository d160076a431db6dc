"""`python -m services.<name> [serve | migrate | … | --help]`: the same words for every service, and what one adds."""

import argparse
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from pydantic import ValidationError
from pydantic_settings import SettingsError

from shared.config import CannotStartError, ServiceConfig, describe
from shared.errors import ServiceError
from shared.logs import setup_logs
from shared.server import run

Command: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Errand:
    """A command of one service: what it does, in a line for --help, and the names of the texts that it is given.

    `flags` are what it may be told with `--name`, each with its meaning; they are given as keyword arguments.
    """

    run: Callable[..., Coroutine[Any, Any, None]]
    about: str
    arguments: Sequence[str] = ()
    flags: Mapping[str, str] = field(default_factory=dict)


def command(
    name: str,
    config_class: type[ServiceConfig],
    *,
    serve: Command,
    migrate: Command | None = None,
    errands: Mapping[str, Errand] | None = None,
    arguments: list[str] | None = None,
) -> None:
    """Runs what the command line asks for; `serve` when it asks for nothing.

    Bad settings end it with status 2, a start that cannot succeed with status 1; both with words, no traceback.
    """
    words = {"serve": Errand(serve, "serves until it is told to stop (this is what it does without a command)")}
    if migrate is not None:
        words["migrate"] = Errand(migrate, "brings the database's schema up to date")
    chosen = _chosen(name, config_class, {**words, **(errands or {})}, arguments)
    try:
        config = config_class()  # type: ignore[call-arg]  # the environment gives the rest
        # First of all: whatever is logged from here on, waiting for a database included, is JSON without secrets.
        setup_logs(name.rpartition(".")[2], config.log_level, config.log_format)
        run(chosen)
    except ValidationError as error:
        # The input is left out on purpose: it may be a secret.
        for problem in error.errors(include_input=False, include_url=False):
            where = ".".join(map(str, problem["loc"])) or "settings"
            _say(f"{name}: {where}: {problem['msg']}")
        sys.exit(2)
    except SettingsError as error:
        _say(f"{name}: {error}")
        sys.exit(2)
    except (CannotStartError, ServiceError) as error:
        _say(f"{name}: {error}")
        sys.exit(1)


def _chosen(
    name: str, config_class: type[ServiceConfig], words: Mapping[str, Errand], arguments: list[str] | None
) -> Command:
    parser = argparse.ArgumentParser(
        prog=f"python -m {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings (environment variables):\n\n" + describe(config_class),
    )
    commands = parser.add_subparsers(metavar="command", dest="command")
    for word, errand in words.items():
        own = commands.add_parser(word, help=errand.about, description=errand.about)
        for argument in errand.arguments:
            own.add_argument(argument)
        for flag, meaning in errand.flags.items():
            own.add_argument(f"--{flag.replace('_', '-')}", dest=flag, action="store_true", help=meaning)
    given = vars(parser.parse_args(arguments))
    errand = words[given["command"] or "serve"]
    flags = {flag: given[flag] for flag in errand.flags}
    return partial(errand.run, *(given[argument] for argument in errand.arguments), **flags)


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 the reader is at a terminal
