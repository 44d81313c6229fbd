"""Who writes: so that what a killed process left half done is found and taken over."""

from __future__ import annotations

import os
import socket
import time
from functools import cache

LEASE_SECONDS = 3600
NOBODY = "- 0 0 0"


@cache
def host_name() -> str:
    """This machine's name."""
    return socket.gethostname()


def this_writer() -> str:
    """This process as `host pid start time`; asked again after a fork."""
    return f"{host_name()} {os.getpid()} {started(os.getpid())} {int(time.time())}"


def started(pid: int) -> str:
    """When a process began, where the system tells it: a number used again is another process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def is_gone(writer: str) -> bool:
    """Whether a writer is no more; one on another machine counts as gone after an hour."""
    host, pid, start, since = writer.split(" ")
    if host != host_name():
        return time.time() - int(since) > LEASE_SECONDS
    if int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return started(int(pid)) != start
