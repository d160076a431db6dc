"""Generates the Python stubs of the contracts: `python protos/generate.py [output directory]` (default: beside)."""

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
WELL_KNOWN_TYPES = Path(grpc_tools.__file__).parent / "_proto"
IMPORT_PATHS = [
    ROOT / "third_party" / "googleapis",
    ROOT / "third_party" / "protovalidate",
    ROOT / "third_party" / "envoy",
    ROOT,
    WELL_KNOWN_TYPES,
]
# google.api comes from googleapis-common-protos. Nobody ships buf.validate for Python, and who ships Envoy's contracts
# (xds-protos) ships a google.api of their own with them, so these modules are generated here.
RATE_LIMIT_SERVICE = "envoy/service/ratelimit/v3/rls.proto"
VENDORED = [
    "buf/validate/validate.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/extensions/common/ratelimit/v3/ratelimit.proto",
    RATE_LIMIT_SERVICE,
    "envoy/type/v3/ratelimit_unit.proto",
]


def contracts() -> list[str]:
    """Paths of Prosa's own contracts, relative to protos/, sorted."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "prosa").rglob("*.proto"))


def generate(output: Path) -> None:
    """Writes messages, service stubs and their types under `output`; raises RuntimeError when protoc refuses."""
    messages = VENDORED + contracts()
    services = [path for path in contracts() if "\nservice " in (ROOT / path).read_text(encoding="utf-8")]
    services.append(RATE_LIMIT_SERVICE)
    _protoc([f"--python_out={output}", f"--mypy_out=quiet:{output}"], messages)
    _protoc([f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}"], services)


def _protoc(outputs: list[str], files: list[str]) -> None:
    binaries = Path(sys.executable).parent
    plugins = [f"--plugin=protoc-gen-{name}={binaries / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    imports = [f"-I{path}" for path in IMPORT_PATHS]
    if protoc.main(["protoc", *imports, *plugins, *outputs, *files]) != 0:
        raise RuntimeError(f"protoc failed for {files}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
