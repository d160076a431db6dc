"""The pages that are the gateway's own: the contract and its reader, health, readiness."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.http_exchange import JSON_TYPE
from gateway.status import MethodNotAllowed

HERE = Path(__file__).parent
OPENAPI = HERE / "openapi.json"
DOCS = HERE / "docs"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

Health = Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True)
class Page:
    """An answer that is ready; `route` names it in metrics."""

    route: str
    content: bytes
    media_type: str = JSON_TYPE
    status: int = 200
    headers: tuple[tuple[str, str], ...] = field(default=(("cache-control", "no-store"),))


class Site:
    """Answers for the paths that no RPC has."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._files = {"/openapi.json": _file("/openapi.json", OPENAPI), **_documents()}
        self.draining = False
        """Set when the process is about to end: it still serves, but no balancer should send anybody new."""

    async def page(self, method: str, path: str) -> Page | None:
        """The page at a path; None when the path is not ours; MethodNotAllowed."""
        found = self._files.get(path)
        if found is None and path not in ("/", "/healthz", "/readyz"):
            return None
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        if found is not None:
            return found
        match path:
            case "/":
                return Page("/", b"", "text/plain", 307, (("location", "/docs"),))
            case "/healthz":
                return Page(path, b'{"status":"ok"}')
            case _:
                return await self._readiness()

    async def _readiness(self) -> Page:
        if self.draining:
            return Page("/readyz", b'{"status":"draining"}', status=503)
        services = await self._health()
        ready = all(state == "SERVING" for state in services.values())
        content = {"status": "ready" if ready else "not_ready", "services": dict(services)}
        return Page("/readyz", json.dumps(content).encode(), status=200 if ready else 503)


def _documents() -> dict[str, Page]:
    pages = {f"/docs/{path.name}": _file("/docs", path) for path in sorted(DOCS.iterdir()) if path.suffix in _TYPES}
    return {**pages, "/docs": pages["/docs/index.html"]}


def _file(route: str, path: Path) -> Page:
    content = path.read_bytes()
    headers = (
        ("cache-control", "no-cache"),
        ("content-security-policy", CONTENT_SECURITY_POLICY),
    )
    return Page(route, content, _TYPES.get(path.suffix, JSON_TYPE), 200, headers)
