"""A server in a process of its own, as a user starts it, and the official client to ask it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
from openai import OpenAI

ROOT = Path(__file__).resolve().parents[2]


@dataclass(kw_only=True)
class Running:
    """A server that answers."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    key: str = "none"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: object) -> OpenAI:
        given = {"base_url": f"{self.url}/v1", "api_key": self.key, "max_retries": 0, **options}
        return OpenAI(**given)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)  # type: ignore[arg-type]

    def post(self, path: str, body: object = None, **options: object) -> httpx.Response:
        if body is not None:
            options["json"] = body
        return httpx.post(self.url + path, timeout=60, **options)  # type: ignore[arg-type]

    def number(self, name: str) -> float:
        """The sum of a metric over its labels."""
        found = re.findall(rf"^chatglm:{name}(?:\{{.*\}})? (\S+)$", self.get("/metrics").text, re.M)
        return sum(map(float, found))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until something is so that must come to be so; the test fails where it does not."""
        for _ in range(1000):
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError("it did not come to be so")

    def lines(self) -> list[str]:
        return self.log.read_text("utf-8").splitlines()

    def stop(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(40)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start_server(log: Path, *flags: str, key: str = "none") -> Running:
    """`chatglm serve` with flags, once it answers; its lines go to `log`."""
    port = free_port()
    command = [sys.executable, "-m", "chatglm", "serve", "--port", str(port), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CHATGLM_LANG": "en"}
    environment.pop("CHATGLM_API_KEY", None)
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=environment, cwd=ROOT)
    running = Running(process=process, port=port, log=log, key=key)
    for _ in range(3000):
        if process.poll() is not None:
            break
        try:
            if running.get("/health").status_code == 200:
                return running
        except httpx.HTTPError:
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the server does not answer: {log.read_text('utf-8')}")


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Starts servers, which end with the tests."""
    started: list[Running] = []

    def start(*flags: str, key: str = "none") -> Running:
        log = tmp_path_factory.mktemp("serve") / "log"
        started.append(start_server(log, *flags, key=key))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.fixture(scope="session")
def server(launch: Callable[..., Running]) -> Running:
    """The embedded model behind the default flags."""
    return launch()


@pytest.fixture(scope="session")
def client(server: Running) -> OpenAI:
    """The official client of that server."""
    return server.client()


@pytest.fixture(scope="session")
def toy_server(launch: Callable[..., Running], toy: Path) -> Running:
    """A tiny model with random weights: it never ends by itself, and it is fast."""
    return launch("--model", f"toy={toy}", "--max-num-seqs", "16")
