"""A program started by us: where its output goes."""

import sys
from pathlib import Path

import pytest

from deploy.local import child
from deploy.local.child import Child, Command


def test_a_log_that_has_grown_long_is_put_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "LONGEST_LOG_BYTES", 4)
    log = tmp_path / "program.log"
    for word in ("one", "two", "three"):
        Child(Command((sys.executable, "-S", "-c", f"print({word!r})"), log=log)).wait()
    assert (log.read_text(), (tmp_path / "program.log.1").read_text()) == ("three\n", "one\ntwo\n")
