"""What the commands can be told by the environment; options on the command line win."""

from pathlib import Path
from typing import Self

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommandConfig(BaseSettings):
    """The settings of both commands."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

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
    def words(self) -> str:
        """pt or en."""
        return "pt" if self.locale.lower().startswith("pt") else "en"
