"""`make backup` and `make restore`: the conversations of the system that runs on this machine, as one file.

Only what chat_store keeps: quotas, documents and metrics are not in it.
"""

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.__main__ import DEMO_FILE
from deploy.local.cast import Cast
from deploy.local.config import LocalConfig
from deploy.local.data_directory import is_held, read_json
from deploy.local.keyring import keyring_in

SERVICE = "chat_store"


def main(arguments: list[str]) -> int:
    """Runs the service's command with the settings that the running system gave it; its exit code, 1 if none runs."""
    config = LocalConfig()
    wanted = _parser().parse_args(arguments)
    running = read_json(config.data_dir / DEMO_FILE)
    if not running or not is_held(config.data_dir):
        print(f"nothing runs on {config.data_dir}: start it with `make run`", file=sys.stderr)  # noqa: T201
        return 1
    file = Path(wanted.file or _new_file(config.data_dir))
    if wanted.command == "backup":
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = ["--into-existing"] if getattr(wanted, "into_existing", False) else []
    command = Cast(config, running["ports"], keyring_in(config.data_dir)).errand(
        SERVICE, wanted.command, str(file), *flags
    )
    return subprocess.run(command.argv, env=dict(command.environment), check=False).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.backup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    backup = commands.add_parser("backup", help="writes a file, by default a new one under the data directory")
    backup.add_argument("file", nargs="?", default="")
    restore = commands.add_parser("restore", help="takes a file in")
    restore.add_argument("file")
    restore.add_argument("--into-existing", action="store_true", help="into a store that holds something already")
    return parser


def _new_file(data_dir: Path) -> Path:
    return data_dir / "backups" / f"{SERVICE}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl.gz"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
