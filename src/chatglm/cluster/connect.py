"""Joining a Ray cluster, or one of this machine alone.

A cluster is one trust domain: whoever reaches its ports may run anything on it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from chatglm.errors import missing_extra

SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)S?$", re.IGNORECASE)
"""Names of environment variables that workers have no business with."""
STORE_BYTES = 200 << 20
"""Of the object store of a cluster that is started here: what passes through it is small."""


@contextmanager
def connected() -> Iterator[ModuleType]:
    """Ray, joined to the cluster of RAY_ADDRESS (`auto`: the one that this machine belongs to).

    Without that variable a cluster begins on this machine, out of reach for others, and ends with
    the block.
    """
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tasks without a GPU will find the variables of GPUs as they are in a later Ray; here already.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:  # read while Ray is imported: its addresses are then those of loopback
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "cluster") from error
    if address is None:
        with without_secrets():
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                logging_level=logging.WARNING,
            )
    else:
        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise ConnectionError(
                f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start one with 'ray "
                "start --head', or unset it to use this machine alone"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def without_secrets() -> Iterator[None]:
    """Leave keys and tokens out of the environment that started processes inherit."""
    kept = {name: value for name, value in os.environ.items() if SECRET.search(name)}
    for name in kept:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)
