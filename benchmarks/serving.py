"""Throughput and time to first token of `chatglm serve` beside llama.cpp's servers.

    python -m benchmarks.serving [--llama-server PROGRAM] [--python PYTHON] [--clients 1,8,32]
        [--tokens 64] [--type q8_0] [--threads 2] [--rounds 16] [--plot FILE.svg]
        [--output FILE.json]

PROGRAM is llama.cpp's `llama-server`, started with a slot for each client and continuous batching;
PYTHON an interpreter with llama-cpp-python[server], whose server answers one request after the
other. Without them ours is measured alone. The same weights on both sides: the embedded model,
exported to GGUF of the type asked for, beside `--quantize int8` of ours for q8_0. Each client sends
streaming completions one after the other; the prompts differ, greedy, all replies of equal length.
The servers run one after the other on the same machine with the same number of threads; the first
round is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.serve import wire
from tests.serve.conftest import free_port

PROMPT = "第{}天，我们沿着河边走了很久。路上有人在放风筝，也有人在钓鱼。"
PATIENCE = 300.0
# llama.cpp's server, without the repacking of weights that some builds crash in on AMX processors.
LAUNCH = """
from llama_cpp import llama_cpp as low

defaults = low.llama_model_default_params


def without_repacking():
    params = defaults()
    params.use_extra_bufts = False
    return params


low.llama_model_default_params = without_repacking
from llama_cpp.server.__main__ import main

main()
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What is measured: its name, its command, what its requests have beside OpenAI's fields."""

    name: str
    command: list[str]
    extra: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One server with so many clients; tokens a second of all, seconds to the first token."""

    server: str
    clients: int
    tokens_per_second: float
    first_median: float
    first_p95: float


@contextmanager
def running(command: list[str], port: int, threads: int) -> Iterator[None]:
    """A server while it answers."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(port, process)
            yield
        finally:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until a server lists its models."""
    since = time.monotonic()
    while time.monotonic() - since < PATIENCE:
        if process.poll() is not None:
            raise SystemExit("a server has ended before it answered")
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/v1/models", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise SystemExit("a server does not answer")


async def client(
    port: int, extra: dict[str, object], number: int, rounds: int, num_tokens: int
) -> list[float]:
    """The seconds to the first token of each of a client's requests."""
    firsts = []
    for i in range(rounds):
        body: dict[str, object] = {
            "prompt": PROMPT.format(1000 * number + i),
            "max_tokens": num_tokens,
            "temperature": 0,
            "stream": True,
            **extra,
        }
        start, first, finish = time.perf_counter(), None, None
        async for event in wire.events(port, "/v1/completions", body):
            first = first or time.perf_counter() - start
            choices = event["choices"]
            assert isinstance(choices, list)
            finish = choices[0]["finish_reason"] or finish
        assert finish == "length", f"a reply ended by {finish}: not all are of equal length"
        firsts.append(first or 0.0)
    return firsts


def measure(server: Server, port: int, clients: int, num_tokens: int, most: int) -> Row:
    """One row, of at least two requests of each client."""
    rounds = max(2, most // clients)

    async def go() -> tuple[float, list[float]]:
        await asyncio.gather(*(client(port, server.extra, 900 + c, 1, 8) for c in range(clients)))
        start = time.perf_counter()
        firsts = await asyncio.gather(
            *(client(port, server.extra, c, rounds, num_tokens) for c in range(clients))
        )
        return time.perf_counter() - start, [first for some in firsts for first in some]

    seconds, firsts = asyncio.run(go())
    return Row(
        server=server.name,
        clients=clients,
        tokens_per_second=clients * rounds * num_tokens / seconds,
        first_median=statistics.median(firsts),
        first_p95=sorted(firsts)[int(0.95 * (len(firsts) - 1))],
    )


def plot(rows: list[Row], path: Path) -> None:
    """Tokens a second over clients, a line for each server."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for name in dict.fromkeys(row.server for row in rows):
        own = [row for row in rows if row.server == name]
        axes.plot([r.clients for r in own], [r.tokens_per_second for r in own], "o-", label=name)
    axes.set(xlabel="clients", ylabel="tokens/s", xscale="log", ylim=(0, None))
    axes.set_xticks(sorted({row.clients for row in rows}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False)
    figure.savefig(path)


def servers(arguments: argparse.Namespace, width: int, file: Path) -> Iterator[Server]:
    """Ours, and those that the flags name, on the same weights."""
    ours = [sys.executable, "-m", "chatglm", "serve", "--max-num-seqs", str(width)]
    if arguments.type == "q8_0":
        ours += ["--quantize", "int8"]
    extra = {"model": "nano", "ignore_eos": True, "repetition_penalty": 1}
    yield Server(name="chatglm", command=ours, extra=extra)
    if not arguments.python and not arguments.llama_server:
        return
    from chatglm import ChatGLM
    from chatglm.checkpoint import export_gguf

    model = ChatGLM.from_pretrained()
    assert isinstance(model, ChatGLM)
    export_gguf(model.loaded, file, kind=arguments.type)
    del model
    threads = str(arguments.threads)
    if arguments.llama_server:
        command = [arguments.llama_server, "--model", str(file), "--alias", "llama"]
        command += ["--threads", threads, "--threads-batch", threads]
        # Room for every client's prompt and reply.
        command += ["--parallel", str(width), "--cont-batching", "--ctx-size", str(512 * width)]
        command += ["--no-repack"]  # some builds crash in it on AMX processors
        extra = {"model": "llama", "ignore_eos": True, "repeat_penalty": 1.0}
        yield Server(name="llama.cpp (llama-server)", command=command, extra=extra)
    if arguments.python:
        command = [arguments.python, "-c", LAUNCH, "--model", str(file)]
        command += ["--n_threads", threads, "--n_ctx", "1024"]
        command += ["--interrupt_requests", "False"]  # or a second client ends the first
        extra = {"model": "llama", "logit_bias": {}, "repeat_penalty": 1.0}
        yield Server(name="llama.cpp (llama-cpp-python)", command=command, extra=extra)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", help="an interpreter with llama-cpp-python[server]")
    parser.add_argument("--llama-server", help="llama.cpp's program of this name")
    parser.add_argument("--rounds", type=int, default=16, help="requests of one client alone (16)")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--type", default="q8_0", choices=("q8_0", "bf16", "f16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    widths = [int(word) for word in arguments.clients.split(",")]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for server in servers(arguments, max(widths), Path(folder) / "nano.gguf"):
            port = free_port()
            with running([*server.command, "--port", str(port)], port, arguments.threads):
                for width in widths:
                    row = measure(server, port, width, arguments.tokens, arguments.rounds)
                    rows.append(row)
                    print(row, file=sys.stderr, flush=True)
    print("| server | clients | tokens/s | first token, median | p95 |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.server} | {row.clients} | {row.tokens_per_second:.0f} | "
            f"{row.first_median:.3f} s | {row.first_p95:.3f} s |"
        )
    if arguments.plot is not None:
        plot(rows, arguments.plot)
    if arguments.output is not None:
        told = json.dumps([asdict(row) for row in rows], indent=1)
        arguments.output.write_text(told + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
