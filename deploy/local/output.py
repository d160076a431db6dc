"""One stream of lines from many programs, each with its program's name in front."""

import sys
from contextlib import suppress
from typing import TextIO

COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
OURSELVES = "prosa"
NAME_WIDTH = 12


class Output:
    """Writes whole lines; gives every name a colour of its own when colours are wanted."""

    def __init__(self, stream: TextIO | None = None, *, colour: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._colour = colour
        self._colours: dict[str, int] = {}

    def line(self, name: str, text: str) -> None:
        """One line of a program."""
        prefix = f"{name:<{NAME_WIDTH}} |"
        if self._colour:
            chosen = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
            prefix = f"\x1b[{chosen}m{prefix}\x1b[0m"
        self._write(f"{prefix} {text}\n")

    def say(self, text: str) -> None:
        """One line of the supervisor itself."""
        self.line(OURSELVES, text)

    def plain(self, text: str) -> None:
        """Text to be copied: no name in front."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        # A closed terminal or a full disk behind the log is no reason to stop, nor to leave a program's pipe unread.
        with suppress(OSError):
            self._stream.write(text)
            self._stream.flush()
