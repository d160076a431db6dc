"""A person's shell, in which the commands run as they do for people."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.house.processes import REPOSITORY
from tests.journeys.tenant import Client, Json


@dataclass
class Terminal:
    """What the shell's environment says of the gateway, the key and the language."""

    environment: Mapping[str, str]

    @classmethod
    def of(cls, client: Client, directory: Path) -> Self:
        """A shell that knows the client's gateway and key, and keeps what it remembers in the directory."""
        settings = {"PROSA_URL": client.gateway, "PROSA_API_KEY": client.key, "LANG": "C.UTF-8", "LC_ALL": ""}
        return cls({**os.environ, **settings, "XDG_STATE_HOME": str(directory / "state"), "COLUMNS": "200"})

    def but(self, **settings: str) -> Self:
        """The same shell with other settings."""
        return type(self)({**self.environment, **settings})

    def run(self, command: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Runs prosa-`command` to its end."""
        return subprocess.run(
            self.line(command, *arguments),
            cwd=REPOSITORY,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    @staticmethod
    def line(command: str, *arguments: str) -> list[str]:
        """The command line, by the function that the console script names."""
        script = f"from services.document_rag.commands.{command}_command import main; main()"
        return [sys.executable, "-c", script, *arguments]


def records(told: subprocess.CompletedProcess[str]) -> tuple[dict[str, Json], Json]:
    """What prosa-ingest --json told: the objects by source, and the totals."""
    *files, totals = [json.loads(line) for line in told.stdout.splitlines()]
    return {each["source"]: each for each in files}, totals
