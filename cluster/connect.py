"""Join a Ray cluster or start one on this machine, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

LOOPBACK = "127.0.0.1"

CONNECT_S: Final = 5.0
"""For the head's port to be open."""

ANSWER_S: Final = 15.0
"""For the cluster to let a process in. Ray itself tries for minutes, and says little when it gives up."""

TRIAL: Final = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)"

WRONG_KEY: Final = "refuses the token: have the head's ~/.ray/auth_token here, or its content in RAY_AUTH_TOKEN"
WHY: Final = {
    "InvalidAuthToken": WRONG_KEY,
    "no authentication token was found": WRONG_KEY,
    "Failed to connect to socket": "this machine is no node of the cluster: join it with `ray start --address` first",
    "Could not find any running Ray": "no Ray runs on this machine: give HOST:PORT, or run `ray start` here first",
    "Version mismatch": "runs another version of Ray or Python than this machine: install the same on both",
}
"""What a process prints that cannot join, and what is wrong then."""


@contextmanager
def join(address: str = "local", code: Sequence[Path] = ()) -> Iterator[None]:
    """Be connected to Ray inside the block.

    Args:
        address: "local" starts Ray on this machine, on loopback alone and with Ray's token; "auto" or HOST:PORT joins
            a running cluster, whose token is found where Ray looks for it (RAY_AUTH_TOKEN or ~/.ray/auth_token).
        code: folders of packages that all that is started on the cluster imports in place of the nodes' own.

    Raises:
        ConnectionError: no cluster answers there, or it does not let this machine in; one line with what to check.
    """
    if address == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # measured work must not wait for whatever else runs
        # Ray's own switch for "this machine only": its servers then listen on loopback, and not on every interface.
        # Ray reads it when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        if "ray" in sys.modules:
            sys.modules["ray"]._private.ray_constants.ENABLE_RAY_CLUSTER = False
    else:
        _try_to_join(address)

    import ray

    # A worker that dies is reported by us, as the state of a stage; its own log stays in Ray's session folder.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address == "local":
        ray.init(address="local", _node_ip_address=LOOPBACK, include_dashboard=False, **quiet)
    else:
        ray.init(address=address, runtime_env=shipping(code), **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def shipping(code: Sequence[Path]) -> dict[str, Any] | None:
    """Ray's runtime environment that has these packages: each node fetches them once, by their content."""
    return {"py_modules": [str(folder) for folder in code], "excludes": ["__pycache__"]} if code else None


def _try_to_join(address: str) -> None:
    """Join in a process of its own: where that fails, Ray tries on for minutes or ends the process it is in.

    Raises:
        ConnectionError: it failed.
    """
    if address != "auto":
        _knock(address)
    command = [sys.executable, "-c", TRIAL, address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as trial:  # noqa: S603 - our own
        try:
            _, said = trial.communicate(timeout=ANSWER_S)
        except subprocess.TimeoutExpired:
            trial.kill()
            _, said = trial.communicate()
    if trial.returncode:
        last = (said.strip().splitlines() or ["nothing"])[-1]
        otherwise = (
            f"does not let this machine in within {ANSWER_S:.0f} s: is it the port of Ray's head? It said: {last}"
        )
        raise ConnectionError(next((why for sign, why in WHY.items() if sign in said), otherwise))


def _knock(address: str) -> None:
    """Whether anybody listens there.

    Raises:
        ConnectionError: nobody, or it is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConnectionError("must be local, auto or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as problem:
        checks = "are host and port those of `ray start --head`, does it run, is a firewall between?"
        raise ConnectionError(f"nobody answers ({problem}): {checks}") from None
