"""What the fake provider's cleverer models say: one that obeys too readily, one that leads a team, one that quotes."""

import re
from collections.abc import Callable, Sequence
from typing import Any

Messages = Sequence[dict[str, Any]]

UNMOVED = "Nada me foi mandado fora do bloco."
ASKED_BACK = "Sobre o que é a sua pergunta?"

_ORDER = re.compile(r"OBEY: ([^\n<]+)")


def obedient(messages: Messages) -> str:
    """Does the first thing that any text outside the block of data tells it to."""
    order = _ORDER.search(_outside(messages))
    return order[1] if order else UNMOVED


def leader(messages: Messages) -> str:
    """Plans for every member, routes to the one whose description shares a word with the question, or composes."""
    system, asked = str(messages[0]["content"]), str(messages[-1]["content"])
    members = re.findall(r"^- ([^:\n]+): (.*)$", system, re.MULTILINE)
    question = asked.rsplit(">", 1)[-1].strip().lower()
    if "you say what each member looks at" in system:
        return "\n".join(f"{name}: {question}" for name, _ in members)
    if "you say who does" in system:
        words = set(re.findall(r"\w{4,}", question))
        fitting = [name for name, description in members if words & set(re.findall(r"\w{4,}", description.lower()))]
        return f"@{fitting[0]}" if len(fitting) == 1 else ASKED_BACK
    found = re.search(r"# What other assistants found\n(.*?)(?:\n\n# |\n</)", asked, re.DOTALL)
    return " ".join(line for line in (found[1] if found else "").splitlines() if line and not line.startswith("#"))


def quoting(messages: Messages) -> str:
    """The first line of the first passage."""
    passage = re.search(r"^(\[\d+\])[^\n]*\n([^\n]+)", str(messages[-1]["content"]), re.MULTILINE)
    return f"{passage[2]} {passage[1]}" if passage else UNMOVED


ROLES: dict[str, Callable[[Messages], str]] = {"fake-obey": obedient, "fake-leader": leader, "fake-quote": quoting}


def _outside(messages: Messages) -> str:
    boundary = re.search(r"boundary (\S+?)[\s.]", str(messages[0]["content"]))
    texts = "\n".join(str(each["content"]) for each in messages)
    return re.sub(rf"<{boundary[1]}>.*?</{boundary[1]}>", "", texts, flags=re.DOTALL) if boundary else texts
