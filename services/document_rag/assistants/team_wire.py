"""Teams and their questions between the contracts and the model."""

from typing import Any

from prosa.document_rag.v1 import team_service_pb2 as pb
from services.document_rag.assistants.model import OnDisconnect, Question
from services.document_rag.assistants.team_model import OnMemberFailure, Strategy, Team, TeamFields
from services.document_rag.assistants.wire import on_disconnect_of, timestamp
from services.document_rag.model import refuse_nul
from shared.errors import FieldViolation, InvalidArgument
from shared.identifiers import new_id

_STRATEGIES = {
    Strategy.ROUTE: pb.TEAM_STRATEGY_ROUTE,
    Strategy.COORDINATE: pb.TEAM_STRATEGY_COORDINATE,
    Strategy.SEQUENCE: pb.TEAM_STRATEGY_SEQUENCE,
}
_STRATEGIES_BACK = {wire: strategy for strategy, wire in _STRATEGIES.items()}
_FAILURES = {
    OnMemberFailure.GO_ON: pb.ON_MEMBER_FAILURE_GO_ON,
    OnMemberFailure.FAIL: pb.ON_MEMBER_FAILURE_FAIL,
}
_FAILURES_BACK = {wire: policy for policy, wire in _FAILURES.items()}
_CHANGEABLE = (
    "display_name",
    "description",
    "leader_id",
    "member_ids",
    "strategy",
    "route_threshold",
    "on_member_failure",
)


def team_to_proto(team: Team) -> pb.Team:
    """Team → contract."""
    fields = team.fields
    return pb.Team(
        team_id=team.team_id,
        display_name=fields.display_name,
        description=fields.description,
        leader_id=fields.leader_id,
        member_ids=fields.member_ids,
        strategy=_STRATEGIES[fields.strategy],
        route_threshold=fields.route_threshold,
        on_member_failure=_FAILURES[fields.on_member_failure],
        create_time=timestamp(team.created_at.timestamp()),
        update_time=timestamp(team.updated_at.timestamp()),
    )


def team_fields_from_proto(request: pb.CreateTeamRequest) -> TeamFields:
    """What the client sets of the new team."""
    refuse_nul({"request_id": request.request_id})
    return TeamFields(**{name: _value(request.team, name) for name in _CHANGEABLE})


def team_changes_from_proto(request: pb.UpdateTeamRequest) -> dict[str, object]:
    """The fields that the mask names, with their new values; InvalidArgument for a path that cannot be changed."""
    unknown = [path for path in request.update_mask.paths if path not in _CHANGEABLE]
    if unknown or not request.update_mask.paths:
        violations = [FieldViolation("update_mask", f"{path} cannot be changed", "field_mask") for path in unknown]
        raise InvalidArgument(f"update_mask names some of: {', '.join(_CHANGEABLE)}", violations=violations)
    return {path: _value(request.team, path) for path in request.update_mask.paths}


def team_question_from_proto(request: pb.ExecuteTeamRequest) -> Question:
    """ExecuteTeamRequest → the turn as asked, with an id under which it may be retried."""
    return Question(
        assistant_id="",
        conversation_id=request.conversation_id,
        text=request.question,
        on_disconnect=on_disconnect_of(request.on_disconnect),
        max_output_tokens=request.max_output_tokens,
        channel=request.channel,
        request_id=request.request_id or new_id(),
        team_id=request.team_id,
    )


def task_from_proto(request: pb.ExecuteTeamTaskRequest) -> Question:
    """ExecuteTeamTaskRequest → the turn as asked; its answer is finished whoever waits for it."""
    return Question(
        assistant_id="",
        conversation_id=request.session_id,
        text=request.task,
        on_disconnect=OnDisconnect.FINISH,
        max_output_tokens=0,
        channel="",
        request_id=request.request_id or new_id(),
        team_id=request.team_id,
        begins_conversation=bool(request.session_id),
    )


def _value(team: pb.Team, name: str) -> Any:
    match name:
        case "strategy":
            return _STRATEGIES_BACK.get(team.strategy, Strategy.ROUTE)
        case "on_member_failure":
            return _FAILURES_BACK.get(team.on_member_failure, OnMemberFailure.GO_ON)
        case "route_threshold":
            return team.route_threshold if team.HasField("route_threshold") else None
        case "member_ids":
            return tuple(team.member_ids)
    return getattr(team, name)
