"""Processes that train one model, started by the dozen: torch is imported once, then forked.

`python -m tests.parallel.team LOG` reads lines of JSON, `[size, argument, …]`, and forks `size`
processes that run the command line together. It says their ids and, when asked, how they ended.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


class Team:
    """Runs `chatglm` in several processes at once, or in one."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.team", str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            | {"CHATGLM_LANG": "en"},
            text=True,
        )

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()

    def run(self, size: int, *arguments: str) -> None:
        """Let `size` processes come to a good end."""
        self.start(size, *arguments)
        assert self.statuses() == [0] * size, self.log.read_text("utf-8")[-3000:]

    def start(self, size: int, *arguments: str) -> list[int]:
        """The ids of processes that run together."""
        return self.ask(json.dumps([size, *arguments]))

    def statuses(self) -> list[int]:
        """How each of them ended; −9 where it was killed."""
        return self.ask("")

    def ask(self, line: str) -> list[int]:
        """The answer to a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        found: list[int] = json.loads(self.process.stdout.readline())
        return found


def serve(log: str) -> None:
    """Fork processes for every line of standard input."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import torch._dynamo
    import torch.distributed.fsdp
    import torch.distributed.tensor  # noqa: F401

    import chatglm.cli.finetune
    import chatglm.training.finetune
    import chatglm.training.run  # noqa: F401

    for line in sys.stdin:
        size, *arguments = json.loads(line)
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        children = []
        for rank in range(size):
            child = os.fork()
            if child == 0:
                take_part(rank, size, port, log, arguments)
            children.append(child)
        print(json.dumps(children), flush=True)
        sys.stdin.readline()  # asks how they ended
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(ends), flush=True)


def take_part(rank: int, size: int, port: int, log: str, arguments: list[str]) -> None:
    """Be one of the processes; does not return."""
    from chatglm.cli import main

    code: object = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if size > 1:
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
