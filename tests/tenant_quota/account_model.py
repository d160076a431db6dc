"""What a careful clerk would write down of an account: limits, counters, reservations, top-ups, one by one."""

from dataclasses import dataclass, field

TENANT, USER, KEY = "tenant", "user", "key"


@dataclass
class Gift:
    """A top-up."""

    top_up_id: str
    priority: int
    left: int
    used: int = 0
    held: int = 0
    is_over: bool = False


@dataclass
class Held:
    """A reservation that is open; `drawn` names the gifts it draws on, and how much."""

    granted: int
    levels: tuple[str, ...]
    parent: str = ""
    drawn: list[tuple[Gift, int]] = field(default_factory=list)
    spent: int = 0
    lent: int = 0
    child_tokens: int = 0


class Clerk:
    """Decides each movement by hand."""

    def __init__(self) -> None:
        self.limits: dict[str, int | None] = {TENANT: None, USER: None, KEY: None}
        self.used = dict.fromkeys(self.limits, 0)
        self.held = dict.fromkeys(self.limits, 0)
        self.topped_used = 0
        self.topped_held = 0
        self.gifts: list[Gift] = []
        self.open: dict[str, Held] = {}

    def grant(self, levels: tuple[str, ...], tokens: int) -> tuple[int, list[tuple[Gift, int]]]:
        """How much of `tokens` there is, and what of it comes from which gift."""
        if tokens == 0:
            return 0, []
        most = min([tokens, *(self._room(level) for level in levels if level != TENANT)])
        own = max(self._room(TENANT), 0)
        drawn: list[tuple[Gift, int]] = []
        missing = most - own
        for gift in sorted(self.gifts, key=lambda each: each.priority):
            if missing > 0 and gift.left > 0:
                drawn.append((gift, min(missing, gift.left)))
                missing -= drawn[-1][1]
        extra = sum(part for _, part in drawn)
        return (min(most, own) + extra if most > own else min(most, self._room(TENANT))), drawn

    def hold(self, held: Held, tokens: int, drawn: list[tuple[Gift, int]]) -> None:
        for level in held.levels:
            self.held[level] += tokens
        for gift, part in drawn:
            gift.left -= part
            gift.held += part
            self.topped_held += part
        held.drawn += drawn

    def end(self, name: str, tokens: int) -> None:
        """With so much used; 0 when it is given back. Children end with their parent."""
        held = self.open.pop(name)
        if held.parent:
            parent = self.open[held.parent]
            moved = min(tokens, held.granted)
            parent.spent += moved
            parent.lent -= held.granted
            parent.child_tokens += tokens
        else:
            moved = held.granted - held.spent
            self.open = {other: each for other, each in self.open.items() if each.parent != name}
            self._end_draw(held, tokens)
        for level in held.levels:
            self.held[level] -= moved
            self.used[level] += tokens

    def _end_draw(self, held: Held, tokens: int) -> None:
        drawn = sum(part for _, part in held.drawn)
        left = max(0, min(drawn, held.spent + tokens - (held.granted - drawn)))
        self.topped_used += left
        self.topped_held -= drawn
        for gift, part in held.drawn:
            used = min(part, left)
            left -= used
            gift.held -= part
            gift.used += used
            gift.left += 0 if gift.is_over else part - used

    def _room(self, level: str) -> int:
        limit = self.limits[level]
        if limit is None:
            return 10**12
        topped = self.topped_used + self.topped_held if level == TENANT else 0
        return limit - self.used[level] - self.held[level] + topped
