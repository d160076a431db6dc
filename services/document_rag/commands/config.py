"""What the commands can be told by the environment; options on the command line win."""

from pathlib import Path
from typing import Self

import httpx
from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommandConfig(BaseSettings):
    """The settings of both commands."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, env_ignore_empty=True)

    url: str = Field(default="http://127.0.0.1:8080", validation_alias=AliasChoices("PROSA_URL"))
    """The gateway's address."""

    api_key: SecretStr = Field(default=SecretStr(""), validation_alias=AliasChoices("PROSA_API_KEY"))
    """The API key."""

    assistant_id: str = Field(default="", validation_alias=AliasChoices("PROSA_ASSISTANT_ID"))
    """The assistant that prosa-ask asks."""

    locale: str = Field(default="", validation_alias=AliasChoices("LC_ALL", "LC_MESSAGES", "LANG"))
    """Decides the language of what people read."""

    state_home: Path = Field(
        default_factory=lambda: Path.home() / ".local" / "state", validation_alias=AliasChoices("XDG_STATE_HOME")
    )
    """Where the last conversation is remembered."""

    @classmethod
    def with_options(cls, url: str | None, api_key: str | None) -> Self:
        """The environment's settings under those of the command line, where it has any."""
        stated = {"url": url, "api_key": SecretStr(api_key) if api_key else None}
        return cls().model_copy(update={name: value for name, value in stated.items() if value})

    @property
    def key(self) -> str:
        """The API key without the line end that a file put there."""
        return self.api_key.get_secret_value().strip()

    @property
    def fault(self) -> tuple[str, ...]:
        """The message that tells what is wrong with the settings, and what goes into it; () when nothing is."""
        if not self.key:
            return ("no_key",)
        if not (self.key.isascii() and self.key.isprintable()):
            return ("bad_key",)
        return () if _is_web_address(self.url) else ("bad_url", self.url)

    @property
    def words(self) -> str:
        """pt or en."""
        return "pt" if self.locale.lower().startswith("pt") else "en"


def _is_web_address(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)
