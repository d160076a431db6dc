"""The conversation that prosa-ask went on with last, by gateway and whom it asked, in a file of the person's own."""

import json
from contextlib import suppress
from pathlib import Path


class LastConversation:
    """Remembers one conversation id for an assistant or team, by its path, at a gateway."""

    def __init__(self, state_home: Path, url: str, path: str) -> None:
        self._path = state_home / "prosa" / "conversations.json"
        self._key = url + path

    def read(self) -> str:
        """The id; "" when there is none."""
        return str(self._all().get(self._key, ""))

    def write(self, conversation_id: str) -> None:
        """Remembers it; whoever keeps no state goes without."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.write_text(json.dumps({**self._all(), self._key: conversation_id}, indent=2), encoding="utf-8")

    def _all(self) -> dict[str, str]:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}
