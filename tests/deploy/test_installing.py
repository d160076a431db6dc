"""Each deployable installs alone from its lock and starts; so do the contracts, for callers who have nothing else."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("deploy", "gateway", "protos", "services", "shared", "pyproject.toml", "README.md")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
DEPLOYABLES = {
    "tenant-quota": "services.tenant_quota",
    "chat-store": "services.chat_store",
    "document-rag": "services.document_rag",
    "analytics": "services.analytics",
    "gateway": "gateway",
}
# Installed at a person's own machine, from a lock of their own.
COMMANDS = "services.document_rag.commands"
# The last is what grpcio itself needs.
CONTRACTS_NEED = {"grpcio", "protobuf", "googleapis-common-protos", "typing-extensions"}
DATA = {".sql", ".json", ".js", ".css", ".html", ".md", ".txt", ".proto", ".pyi"}
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [each.name for each in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
names = [name for name in names if not name.endswith("__main__") and not name.startswith(tuple(sys.argv[2:]))]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


class Environment:
    """A fresh virtual environment, in which nothing of ours can be found but what is installed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        _run(sys.executable, "-m", "venv", str(directory))

    def install(self, *arguments: str) -> None:
        self.python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)

    def install_locked(self, extra: str, wheels: Sequence[Path]) -> None:
        self.install("--require-hashes", "-r", str(REPOSITORY / "requirements" / f"{extra}.txt"))
        self.install("--no-deps", *map(str, wheels))
        self.python("-m", "pip", "check", "--disable-pip-version-check")

    def python(self, *arguments: str) -> str:
        return self.run("python", *arguments)

    def run(self, program: str, *arguments: str) -> str:
        return _run(str(self._directory / "bin" / program), *arguments, cwd=self._directory)

    def packages(self) -> set[str]:
        listed = self.python("-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check")
        return {line.partition("==")[0].lower().replace("_", "-") for line in listed.splitlines()}


def _run(*command: str, cwd: Path | None = None) -> str:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """The wheels of the contracts and of everything else, built from a copy of the sources."""
    copy, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, copy / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(built)]
    for project in ("./protos", "."):
        _run(*build, project, cwd=copy)
    return sorted(built.iterdir(), key=lambda wheel: "protos" not in wheel.name)


@pytest.mark.parametrize("deployable", DEPLOYABLES)
def test_a_deployable_installs_alone_from_its_lock(tmp_path: Path, wheels: Sequence[Path], deployable: str) -> None:
    environment, module = Environment(tmp_path / "venv"), DEPLOYABLES[deployable]
    environment.install_locked(deployable, wheels)
    assert "settings (environment variables)" in environment.python("-m", module, "--help")
    assert int(environment.python("-c", IMPORT_ALL, module, COMMANDS)) > 3


def test_the_commands_install_alone_from_their_lock(tmp_path: Path, wheels: Sequence[Path]) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install_locked("commands", wheels)
    assert int(environment.python("-c", IMPORT_ALL, COMMANDS)) > 3
    for command in ("prosa-ingest", "prosa-ask"):
        assert f"usage: {command}" in environment.run(command, "--help")


def test_the_contracts_install_alone(tmp_path: Path, wheels: Sequence[Path]) -> None:
    environment = Environment(tmp_path / "venv")
    before = environment.packages()
    environment.install(str(wheels[0]))
    assert environment.packages() - before == {"prosa-protos", *CONTRACTS_NEED}
    assert int(environment.python("-c", IMPORT_ALL, "prosa")) > 20


def test_the_wheels_hold_every_file_that_is_no_python(wheels: Sequence[Path]) -> None:
    held = {name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    tracked = _run("git", "ls-files", "deploy", "gateway", "protos/prosa", "services", "shared", cwd=REPOSITORY)
    wanted = {name.removeprefix("protos/") for name in tracked.splitlines() if Path(name).suffix in DATA}
    assert wanted - held == set()
