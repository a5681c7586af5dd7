"""Join a Ray cluster or start one on this machine, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOOPBACK = "127.0.0.1"


@contextmanager
def join(address: str = "local") -> Iterator[None]:
    """Be connected to Ray inside the block.

    Args:
        address: "local" starts Ray on this machine, on loopback alone and with Ray's token; "auto" or HOST:PORT joins
            a running cluster, whose token is found where Ray looks for it (RAY_AUTH_TOKEN or ~/.ray/auth_token).

    Raises:
        ConnectionError: no cluster answers there.
    """
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # measured work must not wait for whatever else runs
        # Ray's own switch for "this machine only": its servers then listen on loopback, and not on every interface.
        # Ray reads it when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "ray" in sys.modules:
            sys.modules["ray"]._private.ray_constants.ENABLE_RAY_CLUSTER = False

    import ray

    # A worker that dies is reported by us, as the state of a stage; its own log stays in Ray's session folder.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address == "local":
        ray.init(address="local", _node_ip_address=LOOPBACK, include_dashboard=False, **quiet)
    else:
        ray.init(address=address, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
