"""`chatglm serve --cluster` as a test has it."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.nodes import Nodes

KEY = {"Authorization": "Bearer sesame"}
REPLICA = "ServeReplica:chatglm"


@contextmanager
def service(nodes: Nodes, toy: Path, log: Path, *flags: str) -> Iterator[str]:
    """The address of a service of the toy model; it ends well on SIGTERM."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    with nodes.start(
        log, "serve", "--cluster", *flags, "--model", f"toy={toy}", "--port", str(port),
        "--api-key", "sesame",
    ) as process:  # fmt: skip
        try:
            while "Ctrl-C" not in log.read_text("utf-8"):
                assert process.poll() is None, log.read_text("utf-8")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text("utf-8")[-5000:]
        finally:
            process.kill()
    assert "sesame" not in log.read_text("utf-8")
    assert nodes.workers(REPLICA) == []
