"""Waiting for nodes to join: `ray up`, Slurm and people start them in no particular order, and do not wait."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cluster.connect import join

POLL_S: Final = 1.0


def addresses_of(cluster_file: Path) -> tuple[str, ...]:
    """Addresses of the nodes that a `ray up` file with the provider `local` names, the head's first.

    Raises:
        ValueError: it is no such file; one line.
    """
    import yaml

    try:
        provider = yaml.safe_load(cluster_file.read_text(encoding="utf-8"))["provider"]
        head, workers = provider["head_ip"], provider["worker_ips"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise ValueError(f"cannot be read: {' '.join(str(problem).split())}") from None
    except (KeyError, TypeError):
        raise ValueError("is no `ray up` file that names its nodes in provider.head_ip and worker_ips") from None
    if not isinstance(workers, list) or not all(isinstance(address, str) for address in (head, *workers)):
        raise ValueError("provider.head_ip must be a text, and provider.worker_ips a list of texts, which may be empty")
    return (head, *workers)


def wait_for_nodes(address: str, number: int, timeout_s: float, names: Sequence[str] = ()) -> None:
    """Come back once so many nodes have joined, and all of those that are named.

    Args:
        address: of the cluster, as `cluster.connect.join` takes it.
        number: how many.
        timeout_s: how long to wait for them.
        names: their addresses or host names, where they are known.

    Raises:
        ConnectionError: as `join`.
        TimeoutError: they have not; one line that says how many have, and who has not.
    """
    deadline_s = time.monotonic() + timeout_s
    with join(address):
        import ray

        while True:
            joined = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
            missing = [name for name in names if not any(_is(node, name) for node in joined.values())]
            if len(joined) >= number and not missing:
                return
            if time.monotonic() > deadline_s:
                who = f"; {', '.join(missing)} did not" if missing else ""
                raise TimeoutError(f"{len(joined)} of {number} nodes joined within {timeout_s:g} s{who}")
            time.sleep(POLL_S)


def _is(node: dict[str, Any], name: str) -> bool:
    """Whether that is how somebody names the node."""
    address = node["NodeManagerAddress"]
    if name in {address, node["NodeManagerHostname"]}:
        return True
    try:
        return address in {found[4][0] for found in socket.getaddrinfo(name, None)}
    except OSError:
        return False
