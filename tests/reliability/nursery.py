"""Processes that can be killed by the hundred: torch is imported once, then forked.

`python -m tests.reliability.nursery MODULE:FUNCTION` reads lines of JSON arguments. For each it
calls the function, a generator, up to its first `yield`; a child that goes on from there is forked.
The nursery says the child's id and then how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


class Nursery:
    """Starts children that call one function, and kills them."""

    def __init__(self, task: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.nursery", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )

    def __enter__(self) -> Nursery:
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

    def ends_before(self, seconds: float, *arguments: object) -> bool:
        """Whether a child ends by itself within so many seconds; otherwise it is killed."""
        child = self.start(*arguments)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)  # it is not reaped before `status`, so the id is its own
        return self.status() == 0

    def run(self, *arguments: object) -> None:
        """Let a child come to its end."""
        self.start(*arguments)
        assert self.status() == 0

    def start(self, *arguments: object) -> int:
        """The id of a new child."""
        return self.ask(json.dumps(arguments))

    def status(self) -> int:
        """How the child ended: 0, or −9 where it was killed; an error of its own fails here."""
        status = self.ask("")
        assert status in (0, -signal.SIGKILL), f"the child failed with {status}"
        return status

    def ask(self, line: str) -> int:
        """The nursery's answer to a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def serve(task: str) -> None:
    """Fork a child for every line of standard input."""
    module, _, name = task.partition(":")
    function = getattr(import_module(module), name)
    for line in sys.stdin:
        work = function(*json.loads(line))
        next(work)
        child = os.fork()
        if child == 0:
            try:
                list(work)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        sys.stdin.readline()  # asks how it ended
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
