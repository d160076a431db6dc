"""Ends an engine without a word."""

import signal

import psutil

from deploy.local.child import Child

PATIENCE_SECONDS = 20


def killed(child: Child) -> None:
    """The whole server at once, as when the machine loses power; returns when all of it is gone."""
    server = psutil.Process(child.pid)
    processes = [server, *server.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    child.stop(PATIENCE_SECONDS)
