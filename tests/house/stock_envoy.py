"""A stock Envoy in a process of its own, on the configuration that operators are given."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.house.ports import own_port
from tests.house.waiting import wait_until

# Beside the environment's own packages (Makefile): there its package would hide our stubs, which bear the same name.
ENVOY = Path(sys.prefix) / "envoy" / "envoy" / "_bin" / "envoy"
EXAMPLE = Path(__file__).parents[2] / "services" / "tenant_quota" / "envoy.yaml"


@contextmanager
def running_envoy(directory: Path, *, gateway_port: int, quota_port: int, secret: str) -> Iterator[str]:
    """The example with its addresses and secret replaced, for the length of the block; yields where it listens."""
    port = own_port()
    configuration = directory / "envoy.yaml"
    configuration.write_text(_example(port, gateway_port, quota_port, secret), encoding="utf-8")
    log = directory / "envoy.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [ENVOY, "--config-path", configuration, "--concurrency", "1", "--disable-hot-restart"],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _example(port: int, gateway_port: int, quota_port: int, secret: str) -> str:
    text = EXAMPLE.read_text(encoding="utf-8")
    for written, wanted in (
        ("port_value: 10000", f"port_value: {port}"),
        ("port_value: 8080", f"port_value: {gateway_port}"),
        ("port_value: 50051", f"port_value: {quota_port}"),
        ("timeout: 0.25s", "timeout: 30s"),  # what comes too late is let through, and a busy machine is late
        ("the secret of the edge, 32 characters or more", secret),
    ):
        assert text.count(written) == 1, written
        text = text.replace(written, wanted)
    return text


def _listens(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/")
    except httpx.TransportError:
        return False
    return True
