"""A Ray cluster of two nodes on this machine: `python -m tests.cluster.nodes` says its address and
its raylets' ids, and ends it when standard input ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
FEW = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its addresses are those of loopback
    "OMP_NUM_THREADS": "1",
    "CHATGLM_LANG": "en",
}
"""Settings that keep the cluster small."""


class Nodes:
    """The cluster, and commands that run on it."""

    def __init__(self) -> None:
        # Of the names that Ray makes below it, those of sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | FEW
        self.env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        self.env["RAY_TMPDIR"] = str(self.folder)
        (self.folder / "ray").mkdir()
        with (self.folder / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.nodes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=self.env,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "errors").read_text("utf-8")
        self.address, self.raylets = json.loads(line)
        self.env["RAY_ADDRESS"] = self.address

    def __enter__(self) -> Nodes:
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
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """`chatglm` on the cluster; what it says goes to a file."""
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "chatglm", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self.env,
            )

    def workers(self, name: str) -> list[int]:
        """The ids of this cluster's processes of a name."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                title = (place / "cmdline").read_bytes().decode("utf-8", "replace")
                parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if name in title and int(parent) in self.raylets:
                found.append(int(place.name))
        return sorted(found)

    def kill(self, process: int) -> None:
        """Kill one of them."""
        os.kill(process, signal.SIGKILL)


def serve() -> None:
    """Be the cluster until standard input ends."""
    from ray.cluster_utils import Cluster

    small = {
        "num_cpus": 1,  # so that two workers are on two nodes
        "object_store_memory": 100 << 20,
        "include_dashboard": False,
        "num_gpus": 0,
    }
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        cluster.add_node(**small)
        cluster.wait_for_nodes(60)
        raylets = [
            started.process.pid
            for node in cluster.list_all_nodes()
            for started in node.all_processes["raylet"]
        ]
        print(json.dumps([cluster.address, raylets]), flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    serve()
