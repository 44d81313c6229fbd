"""Throughput and time to first token of `chatglm serve` beside llama.cpp's server.

    python -m benchmarks.serving [--python PYTHON] [--clients 1,8,32] [--tokens 64]
        [--type q8_0] [--threads 2] [--plot FILE.svg] [--output FILE.json]

PYTHON is an interpreter with llama-cpp-python[server], which need not be this one; without it, ours
is measured alone. The same weights on both sides: the embedded model, exported to GGUF of the type
asked for, beside `--quantize int8` of ours for q8_0. Each client sends streaming completions one
after the other; the prompts differ, greedy, all replies of equal length. Both servers run one after
the other on the same machine with the same number of threads; the first round is not counted.
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


async def client(port: int, model: str, number: int, rounds: int, num_tokens: int) -> list[float]:
    """The seconds to the first token of each of a client's requests."""
    firsts = []
    for i in range(rounds):
        body: dict[str, object] = {
            "model": model,
            "prompt": PROMPT.format(1000 * number + i),
            "max_tokens": num_tokens,
            "temperature": 0,
            "stream": True,
        }
        if model == "nano":
            body |= {"ignore_eos": True, "repetition_penalty": 1}
        else:
            body |= {"logit_bias": {}, "repeat_penalty": 1.0}
        start, first, finish = time.perf_counter(), None, None
        async for event in wire.events(port, "/v1/completions", body):
            first = first or time.perf_counter() - start
            choices = event["choices"]
            assert isinstance(choices, list)
            finish = choices[0]["finish_reason"] or finish
        assert finish == "length", f"a reply ended by {finish}: not all are of equal length"
        firsts.append(first or 0.0)
    return firsts


def measure(server: str, port: int, model: str, clients: int, num_tokens: int) -> Row:
    """One row."""
    rounds = max(2, 16 // clients)

    async def go() -> tuple[float, list[float]]:
        await asyncio.gather(*(client(port, model, 900 + c, 1, 8) for c in range(clients)))
        start = time.perf_counter()
        firsts = await asyncio.gather(
            *(client(port, model, c, rounds, num_tokens) for c in range(clients))
        )
        return time.perf_counter() - start, [first for some in firsts for first in some]

    seconds, firsts = asyncio.run(go())
    return Row(
        server=server,
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


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", help="an interpreter with llama-cpp-python[server]")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--type", default="q8_0", choices=("q8_0", "bf16", "f16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    widths = [int(word) for word in arguments.clients.split(",")]
    rows: list[Row] = []
    ours = [sys.executable, "-m", "chatglm", "serve", "--max-num-seqs", str(max(widths))]
    if arguments.type == "q8_0":
        ours += ["--quantize", "int8"]
    with tempfile.TemporaryDirectory() as folder:
        servers = [("chatglm", "nano", ours)]
        if arguments.python:
            from chatglm import ChatGLM
            from chatglm.checkpoint import export_gguf

            file = Path(folder) / "nano.gguf"
            model = ChatGLM.from_pretrained()
            assert isinstance(model, ChatGLM)
            export_gguf(model.loaded, file, kind=arguments.type)
            theirs = [arguments.python, "-c", LAUNCH, "--model", str(file)]
            theirs += ["--n_threads", str(arguments.threads), "--n_ctx", "1024"]
            theirs += ["--interrupt_requests", "False"]  # or a second client ends the first
            servers.append(("llama.cpp (llama-cpp-python)", "llama", theirs))
        for name, alias, command in servers:
            port = free_port()
            with running([*command, "--port", str(port)], port, arguments.threads):
                for width in widths:
                    rows.append(measure(name, port, alias, width, arguments.tokens))
                    print(rows[-1], file=sys.stderr, flush=True)
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
