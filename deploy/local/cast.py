"""Who plays in an all-in-one run: engines, migrations, services and the gateway, with their settings."""

import signal
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from deploy.local.child import Command
from deploy.local.config import LocalConfig, environment_for
from deploy.local.engine import Engine, last_words
from deploy.local.engines import Mongo, Postgres, Redis
from deploy.local.health import grpc_serving, http_ready
from deploy.local.keyring import Keyring
from deploy.local.ports import LOOPBACK, free_port, is_free
from deploy.local.supervisor import Program

SERVICES = ("tenant_quota", "chat_store", "document_rag", "analytics")
GATEWAY = "gateway"
MIGRATED = ("tenant_quota", "document_rag")
PORT_FIELDS = tuple(name for name in LocalConfig.model_fields if name.endswith("_port"))
# gRPC cannot follow a fork and need not: what services start, they exec.
SERVICE_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "GRPC_ENABLE_FORK_SUPPORT": "false"}
ENGINE_URLS = {"postgres": "DATABASE_URL", "mongod": "MONGODB_URL", "redis": "REDIS_URL"}
CONVERSATIONS_IN = {"mongo": ("mongod",), "postgres": ("postgres",), "memory": ()}
ENGINES_OF = {
    "tenant_quota": ("postgres", "redis"),
    "document_rag": ("postgres",),
    "analytics": ("mongod", "redis"),
}


class PortTakenError(RuntimeError):
    """A port that was insisted on is not free."""


def choose_ports(config: LocalConfig, say: Callable[[str], None]) -> dict[str, int]:
    """A free port for every `*_port` of the settings, by its name without the ending; one that was set stays."""
    wanted = {name: int(getattr(config, name)) for name in PORT_FIELDS}
    chosen = _insisted_on({name: wanted[name] for name in PORT_FIELDS if name in config.model_fields_set})
    for name in PORT_FIELDS:
        if name in chosen:
            continue
        if wanted[name] and wanted[name] not in chosen.values() and is_free(wanted[name]):
            chosen[name] = wanted[name]
            continue
        chosen[name] = _another_port(chosen.values())
        if wanted[name]:
            say(f"port {wanted[name]} is taken: {name.removesuffix('_port')} listens on {chosen[name]}")
    return {name.removesuffix("_port"): chosen[name] for name in PORT_FIELDS}


def _insisted_on(wanted: Mapping[str, int]) -> dict[str, int]:
    """Those that are not 0; PortTakenError for one that cannot be had."""
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        if not port:
            continue
        other = next((f"PROSA_{known.upper()}" for known in chosen if chosen[known] == port), "")
        if other or not is_free(port):
            raise PortTakenError(f"PROSA_{name.upper()}={port}: the port is taken by {other or 'another program'}")
        chosen[name] = port
    return chosen


def _another_port(chosen: Collection[int]) -> int:
    """A free one that was not chosen before: nobody listens on those yet, so the system may give them out again."""
    while (port := free_port()) in chosen:
        continue
    return port


@dataclass(frozen=True)
class Cast:
    """Everything to be run for one configuration."""

    config: LocalConfig
    ports: Mapping[str, int]
    keyring: Keyring

    @property
    def gateway_url(self) -> str:
        """Where browsers and curl go."""
        return f"http://{LOOPBACK}:{self.ports[GATEWAY]}"

    @property
    def targets(self) -> dict[str, str]:
        """host:port of each service."""
        return {name: f"{LOOPBACK}:{self.ports[name]}" for name in SERVICES}

    def engines(self) -> list[Engine]:
        """Those that are not pointed elsewhere."""
        directory = self.config.data_dir.resolve()
        config = self.config
        embedded: list[Engine] = []
        if config.database_url is None:
            embedded.append(Postgres(directory / "postgres", self.ports["postgres"], database="prosa"))
        if config.mongodb_url is None:
            embedded.append(Mongo(directory / "mongo", self.ports["mongo"]))
        if config.redis_url is None:
            embedded.append(Redis(directory / "redis", self.ports["redis"]))
        return embedded

    def engine_programs(self) -> list[Program]:
        """The embedded engines, to be kept running."""
        return [_engine_program(engine) for engine in self.engines()]

    def migrations(self) -> list[tuple[str, Command]]:
        """Run once, to their end, before any service starts."""
        with_schema = [*MIGRATED, "chat_store"] if self.config.chat_store_engine == "postgres" else MIGRATED
        return [(f"{name} migrate", self.errand(name, "migrate")) for name in with_schema]

    def errand(self, name: str, *arguments: str) -> Command:
        """A command of a service, with the settings that it serves with."""
        return self._command(f"services.{name}", name, *arguments)

    def service_programs(self) -> list[Program]:
        """The four services, to be kept running."""
        return [
            Program(
                name=name,
                command=lambda name=name: self.errand(name),  # type: ignore[misc]
                ready=grpc_serving(self.ports[name]),
            )
            for name in SERVICES
        ]

    def gateway_program(self) -> Program:
        """The way in for browsers."""
        return Program(
            name=GATEWAY,
            command=lambda: self._command(GATEWAY, GATEWAY),
            ready=http_ready(self.ports[GATEWAY]),
        )

    def _command(self, module: str, name: str, *arguments: str) -> Command:
        prefix = f"{name.upper()}_"
        return Command(
            argv=(sys.executable, "-m", module, *arguments),
            # Without its engines a service could only wait for them; it loses nothing that was acknowledged.
            orphan_signal=signal.SIGKILL,
            environment={**SERVICE_ENVIRONMENT, **environment_for(prefix), **self._settings(name)},
        )

    def _settings(self, name: str) -> dict[str, str]:
        prefix = name.upper()
        own = {
            "PROSA_TOKEN_PUBLIC_KEY": self.keyring.signing_public_pem,
            f"{prefix}_PORT": str(self.ports[name]),
            f"{prefix}_METRICS_PORT": str(self.ports[f"{name}_metrics"]),
        }
        wishes = {key: value for key, value in environment_for(f"{prefix}_").items() if key.startswith(prefix)}
        ours = {f"{prefix}_LOG_FORMAT": "console", **self._engine_urls(name), **self._particulars()[name]}
        return {**ours, **wishes, **own}

    def _engine_urls(self, name: str) -> dict[str, str]:
        """Of the embedded engines that the service works on; another's URL is in the caller's environment already."""
        engines_of = {**ENGINES_OF, "chat_store": (*CONVERSATIONS_IN[self.config.chat_store_engine], "redis")}
        needed = engines_of.get(name, ())
        return {ENGINE_URLS[engine.name]: engine.url() for engine in self.engines() if engine.name in needed}

    def _particulars(self) -> Mapping[str, Mapping[str, str]]:
        targets = self.targets
        keys = self.keyring
        originals = (self.config.data_dir.resolve() / "originals").as_uri()
        return {
            "tenant_quota": {
                "TENANT_QUOTA_TOKEN_SIGNING_KEY": keys.signing_private_pem,
                "TENANT_QUOTA_API_KEY_PEPPER": keys.pepper,
                "TENANT_QUOTA_API_KEY_ENVIRONMENT": "local",
                "TENANT_QUOTA_BOOTSTRAP_ADMIN_KEY": keys.admin_key,
                "TENANT_QUOTA_BOOTSTRAP_SERVICE_KEY": keys.service_key,
            },
            "chat_store": {},
            "document_rag": {
                "DOCUMENT_RAG_TENANT_QUOTA_TARGET": targets["tenant_quota"],
                "DOCUMENT_RAG_CHAT_STORE_TARGET": targets["chat_store"],
                "DOCUMENT_RAG_SERVICE_KEY": keys.service_key,
                "DOCUMENT_RAG_ORIGINALS_URL": originals,
            },
            "analytics": {
                "ANALYTICS_TENANT_QUOTA_TARGET": targets["tenant_quota"],
                "ANALYTICS_CHAT_STORE_TARGET": targets["chat_store"],
                "ANALYTICS_SERVICE_KEY": keys.service_key,
            },
            GATEWAY: {f"GATEWAY_{name.upper()}_TARGET": target for name, target in targets.items()},
        }


def _engine_program(engine: Engine) -> Program:
    return Program(
        name=engine.name,
        command=engine.command,
        ready=engine.ready,
        prepare=engine.prepare,
        last_words=lambda: last_words(engine),
    )
