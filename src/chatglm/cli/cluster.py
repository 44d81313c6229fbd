"""Flags of the commands that can run on a Ray cluster, and how they go there."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from chatglm.cli.console import say
from chatglm.cli.options import CommandError

if TYPE_CHECKING:
    from chatglm.serve.settings import Settings


def add_cluster_flag(group: argparse._ActionsContainer) -> None:
    """`--cluster`."""
    group.add_argument(
        "--cluster",
        action="store_true",
        help=say(
            "on the Ray cluster of $RAY_ADDRESS; without it, one begins on this machine alone",
            "在 $RAY_ADDRESS 所指的 Ray 集群上运行；未设置则仅在本机启动一个",
        ),
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Where and in how many workers to train."""
    group = parser.add_argument_group(say("cluster (Ray Train)", "集群（Ray Train）"))
    add_cluster_flag(group)
    for flag, default, meaning in (
        (
            "--workers",
            1,
            ("processes; each has a GPU where there are some", "进程数，有 GPU 则各占一块"),
        ),
        ("--cpus-per-worker", 1, ("processors of each", "每个进程的处理器数")),
        ("--max-failures", 3, ("lost workers after which to give up", "失去进程多少次后放弃")),
    ):
        group.add_argument(flag, type=int, default=default, help=f"{say(*meaning)} ({default})")


def add_serving_flags(parser: argparse.ArgumentParser) -> None:
    """In how many replicas to serve."""
    group = parser.add_argument_group(say("cluster (Ray Serve)", "集群（Ray Serve）"))
    add_cluster_flag(group)
    group.add_argument(
        "--replicas",
        type=int,
        default=1,
        help=say(
            "copies of the models; at least, with --max-replicas (1)", "副本数或最少副本数（1）"
        ),
    )
    group.add_argument(
        "--max-replicas",
        type=int,
        help=say("at most so many, by how many requests run", "按负载自动扩展的副本数上限"),
    )
    group.add_argument(
        "--cpus-per-replica",
        type=int,
        default=1,
        help=say("processors of each (1)", "每个副本的处理器数（1）"),
    )


def train_in_workers(work: Callable[[], int], output: str, arguments: argparse.Namespace) -> int:
    """Do the work in the workers that the flags ask for."""
    from chatglm.cluster.train import train_on_cluster

    for flag in ("workers", "cpus_per_worker"):
        if getattr(arguments, flag) < 1:
            name = "--" + flag.replace("_", "-")
            raise CommandError(f"{name} must be at least 1, got {getattr(arguments, flag)}")
    return train_on_cluster(
        work,
        output,
        workers=arguments.workers,
        max_failures=arguments.max_failures,
        cpus=arguments.cpus_per_worker,
    )


def serve_in_replicas(
    arguments: argparse.Namespace,
    settings: Settings,
    sockets: list[socket.socket],
    tell_where: Callable[[str, Settings], None],
) -> int | None:
    """Serve in as many replicas as the flags say, until a signal, whose number is returned."""
    from chatglm.cli.serve_models import load_models
    from chatglm.cluster.serve import Scale, serve_on_cluster
    from chatglm.serve import log

    scale = Scale(
        least=arguments.replicas,
        most=arguments.max_replicas or arguments.replicas,
        cpus=arguments.cpus_per_replica,
    )
    # Keys and certificates are the door's affair, and the replicas are not told of them.
    kept = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("run", "api_key", "api_key_file", "ssl_certfile", "ssl_keyfile")
    }
    return serve_on_cluster(
        partial(load_models, argparse.Namespace(**kept), replace(settings, api_keys=())),
        settings,
        scale,
        sockets,
        report=log.report,
        ready=partial(tell_where, f"{scale.least} replicas", settings),
    )
