"""The service on a Ray cluster: the same application in N replicas behind one door."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from chatglm.cluster.connect import connected
from chatglm.cluster.door import make_door
from chatglm.cluster.engines import Engines, Told
from chatglm.cluster.replica import Load, Replica
from chatglm.serve.http import make_server
from chatglm.serve.record import Record
from chatglm.serve.settings import Settings

NAME = "chatglm"
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""The door has a log of its own."""
PATIENCE = 2.0
"""Seconds that a replica may take to say its engines' numbers."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many replicas there are: `least`, and up to `most` while many requests run. cpus: of
    each; it has a GPU where the cluster has some.
    """

    least: int = 1
    most: int = 1
    cpus: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"the replicas must be at least 1 and at most --max-replicas, got {self.least} and "
                f"{self.most}"
            )


def serve_on_cluster(
    load: Load,
    settings: Settings,
    scale: Scale,
    sockets: list[socket.socket],
    *,
    report: Callable[[Record], None] | None = None,
    ready: Callable[[], None] = lambda: None,
) -> int | None:
    """Serve until a signal, whose number is returned; then the replicas end.

    load: makes the models, in each replica. sockets: where the door listens. The keys stay in this
    process.
    """
    with connected() as ray:
        from ray import serve

        try:
            serve.start(proxy_location="Disabled", logging_config=QUIET)
            target: Any = serve.deployment(Replica).options(**options(ray, settings, scale))
            inside = replace(
                settings,
                api_keys=(),
                host="0.0.0.0",
                allow_origins=(),
                ssl_certfile=None,
                ssl_keyfile=None,
            )
            handle = serve.run(
                target.bind(load, inside), name=NAME, route_prefix=None, logging_config=QUIET
            )
            replicas = handle.options(method_name="answer", stream=True)
            lost = (ray.exceptions.RayActorError,)
            engines = Engines(partial(ask_all, handle))
            app = make_door(replicas, lost, settings, engines, report=report)
            server = make_server(app, settings)
            ready()
            server.run(sockets)
        finally:
            serve.shutdown()
    return server.stopped_by


def ask_all(handle: Any) -> list[Told]:
    """What every replica says of its engines that answers in time."""
    from ray.serve.exceptions import DeploymentUnavailableError

    try:
        said = handle.broadcast("numbers").results(timeout_s=PATIENCE, return_exceptions=True)
    except (TimeoutError, DeploymentUnavailableError):  # there is none at the moment
        return []
    return [told for told in said if not isinstance(told, Exception)]


def options(ray: Any, settings: Settings, scale: Scale) -> dict[str, object]:
    """How Ray Serve keeps the replicas."""
    found: dict[str, object] = {
        "name": NAME,
        # The application itself says when its queue is full.
        "max_ongoing_requests": 2 * (settings.max_num_seqs + settings.max_queue),
        "health_check_period_s": 2.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_timeout_s": settings.drain_timeout,
        "ray_actor_options": {
            "num_cpus": scale.cpus,
            "num_gpus": 1 if ray.cluster_resources().get("GPU", 0) > 0 else 0,
        },
    }
    if scale.most == scale.least:
        return found | {"num_replicas": scale.least}
    return found | {
        "autoscaling_config": {
            "min_replicas": scale.least,
            "initial_replicas": scale.least,
            "max_replicas": scale.most,
            "target_ongoing_requests": settings.max_num_seqs,
        }
    }
