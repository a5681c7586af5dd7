"""This machine as a node, before Ray runs on it."""

import platform
from typing import Final

from cluster.inventory import local_cpus, memory_bytes
from cluster.node import Node
from cluster.node_report import gpus_handed_out

LOOPBACK: Final = "127.0.0.1"


def local_node() -> Node:
    """What a Ray that this process starts here would hand out."""
    gpus = gpus_handed_out(by_ray=False)
    return Node("local", platform.node(), LOOPBACK, local_cpus(), len(gpus), memory_bytes(), gpus)
