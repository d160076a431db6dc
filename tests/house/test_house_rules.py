"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from prosa.common.v1 import access_pb2, error_reason_pb2
from tests.journeys.wire import all_methods, contract_files

ROOT = Path(__file__).parents[2]
ROOMS = ("services", "gateway", "shared", "deploy")
TOP_LEVEL = {
    "protos",
    "services",
    "gateway",
    "shared",
    "deploy",
    "tests",
    "Makefile",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "requirements",
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc", "core", "impl", "service"}
MAX_LINES = 400
MAX_README_LINES = 150
MAX_HANDLER_LINES = 12
# In the contract for clients to expect; given once the first limiter of load is built.
NOT_GIVEN_YET = {"OVERLOADED"}

# DESIGN §5: each invariant, and the test that bears its name.
INVARIANTS = {
    1: "test_an_acknowledged_write_survives_kill_9_of_any_process_and_of_any_datastore",
    2: "test_seq_is_dense_and_strictly_increasing",
    3: "test_no_conversation_hits_16_mb",
    4: "test_granted_tokens_never_exceed_a_hard_limit",
    5: "test_a_second_tenant_sees_nothing",
    6: "test_a_tenant_with_one_percent_of_the_chunks_gets_a_full_top_k",
    7: "test_concurrent_identical_uploads_converge_on_one_document",
    8: "test_each_event_is_counted_exactly_once",
    9: "test_a_disconnected_client_stops_paying_within_a_second",
    10: "test_a_signal_drains_calls_in_flight",
}


def tracked() -> list[Path]:
    """The files of the project as git knows them, those not yet added included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def own_python(*rooms: str) -> list[Path]:
    """Our Python files in these rooms, generated ones left out."""
    return [
        path
        for path in tracked()
        if path.suffix == ".py" and "_pb2" not in path.name and path.relative_to(ROOT).parts[0] in rooms
    ]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_top_level_is_what_the_design_says() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
    assert {"CONTRIBUTING.md", "CHANGELOG.md", ".ci"} <= top


@pytest.mark.parametrize("method", [pytest.param(each, id=each.full_name) for each in all_methods()])
def test_every_rpc_has_a_route_and_an_access_rule(method: MethodDescriptor) -> None:
    options = method.GetOptions()
    rule = options.Extensions[annotations_pb2.http]
    access = options.Extensions[access_pb2.access]
    assert rule.WhichOneof("pattern"), "no google.api.http rule"
    assert bool(access.permission) != access.public, "no access rule, or two"


def test_every_contract_is_known_to_the_tests() -> None:
    assert contract_files() == {f"{method.containing_service.file.name}" for method in all_methods()}, (
        "list the new contract in tests/journeys/wire.py"
    )


def reasons_listed() -> set[str]:
    names = error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    return {name.removeprefix("ERROR_REASON_") for name in names}


def test_every_reason_is_in_the_contract_and_every_one_in_the_contract_is_given() -> None:
    listed = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    given = set(_reasons_given())
    assert given <= listed, f"not in error_reason.proto: {sorted(given - listed)}"
    assert listed - given <= NOT_GIVEN_YET, f"never given: {sorted(listed - given)}"


def _reasons_given() -> Iterator[str]:
    """What our code gives as `reason`, and every text that is a listed reason; a field's violation has rule ids."""
    listed = reasons_listed()
    for path in own_python(*ROOMS):
        for node in _outside_violations(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.keyword(arg="reason", value=ast.Constant(value=str(reason))) if reason.isupper():
                    yield reason
                case ast.Assign(targets=[ast.Name(id="reason")], value=ast.Constant(value=str(reason))):
                    yield reason
                case ast.AnnAssign(target=ast.Name(id="reason"), value=ast.Constant(value=str(reason))):
                    yield reason
                case ast.Constant(value=str(text)) if text in listed:
                    yield text


def _outside_violations(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those inside a call of FieldViolation."""
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "FieldViolation":
        return
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from _outside_violations(child)


def test_the_environment_is_read_in_config_alone() -> None:
    readers = {
        relative(path)
        for path in own_python(*ROOMS)
        if re.search(r"\bos\.(environ|getenv)\b", path.read_text(encoding="utf-8")) and path.name != "config.py"
    }
    assert not readers


def test_except_exception_is_the_street_s_alone() -> None:
    catchers = {
        relative(path)
        for path in own_python("services", "gateway")
        if re.search(r"^\s*except( Exception)?:", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    # Where there is no street around the code: the gateway's own edge, a process that reads hostile files, and loops
    # that must outlive every single failure.
    assert catchers <= {
        "gateway/app.py",
        "services/chat_store/audit.py",
        "services/chat_store/retention.py",
        "services/document_rag/documents/extraction.py",
        "services/tenant_quota/steadily.py",
        "services/tenant_quota/sweeper.py",
    }


def test_names_explain_themselves() -> None:
    assert not [relative(path) for path in own_python(*ROOMS, "tests") if path.stem in FORBIDDEN_NAMES]


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    sources = [
        path
        for path in tracked()
        if path.suffix in {".py", ".proto", ".sql", ".js", ".md"}
        and "third_party" not in path.parts
        and path != Path(__file__)
    ]
    assert not [relative(path) for path in sources if marks.search(path.read_text(encoding="utf-8"))]


def test_no_test_is_skipped() -> None:
    skips = re.compile(r"^\s*(@pytest\.mark\.skip|pytest\.skip\(|pytest\.importorskip\()", re.MULTILINE)
    assert not [relative(path) for path in own_python("tests") if skips.search(path.read_text(encoding="utf-8"))]


def test_files_are_short_enough_to_be_read() -> None:
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in own_python(*ROOMS, "tests")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


def test_a_handler_turns_one_rpc_into_one_intent() -> None:
    """≤ 12 lines, and none of what the street does already."""
    for path in (ROOT / "services").rglob("*handlers.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AsyncFunctionDef) and node.name[0].isupper():
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
                assert lines <= MAX_HANDLER_LINES, f"{relative(path)}: {node.name} has {lines} lines"
                assert not any(isinstance(each, ast.Try) for each in ast.walk(node)), f"{relative(path)}: {node.name}"


def test_every_room_says_what_it_is() -> None:
    rooms = [path for path in (ROOT / "services").iterdir() if (path / "__main__.py").exists()]
    assert [room.name for room in [*rooms, ROOT / "gateway"] if not (room / "README.md").exists()] == []


def test_no_machine_and_no_place_of_download_is_named() -> None:
    """Nothing knows on which machine it was written, and a lock says which package, never from where."""
    machine = (f"{ROOT}/", f"{Path.home()}/")
    texts = {path: path.read_text(encoding="utf-8", errors="ignore") for path in tracked()}
    assert not [relative(path) for path, text in texts.items() if any(place in text for place in machine)]
    assert not [relative(path) for path, text in texts.items() if path.parent.name == "requirements" and "://" in text]


def test_every_deployable_has_a_lock_with_hashes() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in extras:
        lock = (ROOT / "requirements" / f"{extra}.txt").read_text(encoding="utf-8")
        pinned = re.findall(r"^[a-z0-9][\w.\-]*(?:\[[\w,\-]+\])?==", lock, re.MULTILINE | re.IGNORECASE)
        hashed = re.findall(r"^[a-z0-9][\w.\-\[\],]*==[^\n]*\\\n\s+--hash=", lock, re.MULTILINE | re.IGNORECASE)
        assert len(pinned) == len(hashed) > 0, extra


def test_the_stub_package_needs_nothing_but_grpc_and_protobuf() -> None:
    project = tomllib.loads((ROOT / "protos" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=~\[ ]", requirement)[0] for requirement in project["dependencies"]}
    assert names == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_the_stubs_are_fresh(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "protos" / "generate.py", tmp_path], check=True, capture_output=True)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*")}
    assert fresh
    stale = [str(path) for path, content in fresh.items() if (ROOT / "protos" / path).read_bytes() != content]
    assert not stale, "make protos"


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?({re.escape(version)}|Unreleased)", changelog, re.MULTILINE)


def test_each_invariant_has_a_test_of_its_name() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in own_python("tests") if path != Path(__file__))
    assert not [name for name in INVARIANTS.values() if f"def {name}" not in tests]
