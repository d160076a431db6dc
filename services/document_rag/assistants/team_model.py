"""Teams, and what must be true of them. No input or output."""

import enum
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.document_rag.model import refuse_nul
from shared.errors import FailedPrecondition, FieldViolation, InvalidArgument

DEFAULT_ROUTE_THRESHOLD = 0.3
MOST_MEMBERS = 10


class TeamMemberUnknown(InvalidArgument):
    """A leader or member named for a team is no assistant of the tenant."""

    reason = "TEAM_MEMBER_UNKNOWN"

    def __init__(self, fields: Sequence[str]) -> None:
        rule = "must be an assistant of the tenant"
        violations = [FieldViolation(f"team.{name}", rule, "team.member") for name in fields]
        super().__init__("the team names assistants that do not exist", violations=violations)


class TeamIncomplete(FailedPrecondition):
    """The team's leader, or all its members, were deleted."""

    reason = "TEAM_INCOMPLETE"


class Strategy(enum.Enum):
    """How the members of a team work together."""

    ROUTE = "route"
    COORDINATE = "coordinate"
    SEQUENCE = "sequence"


class OnMemberFailure(enum.Enum):
    """What becomes of a turn when a member fails."""

    GO_ON = "go_on"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class TeamFields:
    """What a client may set of a team."""

    display_name: str
    leader_id: str
    member_ids: tuple[str, ...]
    description: str = ""
    strategy: Strategy = Strategy.ROUTE
    route_threshold: float | None = None
    on_member_failure: OnMemberFailure = OnMemberFailure.GO_ON

    def __post_init__(self) -> None:
        broken = list(self._broken_rules())
        if broken:
            raise InvalidArgument(violations=broken)
        named = {"display_name": self.display_name, "description": self.description, "leader_id": self.leader_id}
        named |= {f"member_ids[{index}]": each for index, each in enumerate(self.member_ids)}
        refuse_nul({f"team.{name}": text for name, text in named.items()})

    def _broken_rules(self) -> Iterator[FieldViolation]:
        """The rules of the contract, kept here too: it cannot check what an update's mask leaves out."""
        ids, threshold = self.member_ids, self.route_threshold
        rules = {
            "display_name": (self.display_name.strip() and len(self.display_name) <= 200, "1 to 200 characters"),
            "description": (len(self.description) <= 2000, "at most 2000 characters"),
            "leader_id": (1 <= len(self.leader_id) <= 64, "1 to 64 characters"),
            "member_ids": (
                1 <= len(ids) <= MOST_MEMBERS
                and len(set(ids)) == len(ids)
                and all(1 <= len(each) <= 64 for each in ids),
                f"1 to {MOST_MEMBERS} different ids of 1 to 64 characters",
            ),
            "route_threshold": (threshold is None or 0 <= threshold <= 1, "0 to 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                yield FieldViolation(f"team.{name}", f"must be {rule}", f"team.{name}")

    def fingerprint(self) -> bytes:
        """What a retry with the same request_id must repeat."""
        return hashlib.sha256(repr(self).encode()).digest()


def people_of(stated: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The assistants that fields of a team name, each under the field that names it."""
    if "leader_id" in stated:
        yield "leader_id", stated["leader_id"]
    for index, each in enumerate(stated.get("member_ids", ())):
        yield f"member_ids[{index}]", each


@dataclass(frozen=True, slots=True)
class Team:
    """A team as kept. Its assistants may have been deleted since."""

    team_id: str
    fields: TeamFields
    created_at: datetime
    updated_at: datetime
