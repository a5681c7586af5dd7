"""A script for Slurm's sbatch: Ray on the nodes of a job, a sweep on it, and a clean end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from shlex import quote
from typing import Final

WARNING_S: Final = 120
"""Before its time is up, a job is warned: running fine-tunings leave a checkpoint meanwhile."""

TIME: Final = re.compile(r"\d+(-\d+(:\d+){0,2}|(:\d+){0,2})", re.ASCII)
"""Minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on: man sbatch, --time."""

PARTITIONS: Final = re.compile(r"[\w.-]+(,[\w.-]+)*", re.ASCII)

HEADER: Final = """\
#!/bin/bash
# A sweep on Slurm: submit this file with sbatch. When its time is nearly up it leaves checkpoints and queues itself
# again. Submitted once more after whatever end, it goes on from there.
"""


@dataclass(frozen=True)
class SlurmJob:
    """What is asked of Slurm.

    Attributes:
        name: of the sweep.
        sweep_file: absolute path, the same on every node.
        results: absolute path, the same on every node, or a URL.
        environment: folder of the commands `energyaware`, `ray` and `python`, on every node.
        nodes: machines.
        cpus_per_node: CPU cores of each that the job gets, and Ray hands out.
        gpus_per_node: GPUs of each, likewise.
        exclusive: no other jobs on these nodes: their joules would be in what a node's counters say.
        time: limit, as sbatch takes it; None for the partition's.
        partition: one, or several with commas between; None for Slurm's default.

    Raises:
        ValueError: time or partition are none; one line that begins with which it is.
    """

    name: str
    sweep_file: str
    results: str
    environment: str
    nodes: int
    cpus_per_node: int
    gpus_per_node: int
    exclusive: bool = True
    time: str | None = None
    partition: str | None = None

    def __post_init__(self) -> None:
        if self.time is not None and not TIME.fullmatch(self.time):
            raise ValueError(f"time: {self.time!r} is none: 90 is minutes, 12:00:00 hours, 2-12 days and hours")
        if self.partition is not None and not PARTITIONS.fullmatch(self.partition):
            raise ValueError(f"partition: {self.partition!r} is none: a name, or several with commas between")


def sbatch_script(job: SlurmJob) -> str:
    """The script that runs a sweep as a job of Slurm; all that is not the same for every job is at its top."""
    asked = {
        "job-name": "energyaware-" + re.sub(r"[^\w.-]", "-", job.name, flags=re.ASCII),
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.cpus_per_node,
        "gpus-per-node": job.gpus_per_node or None,
        "exclusive": job.exclusive or None,
        "mem": 0 if job.exclusive else None,  # all of it: a node that is held whole comes with the default share
        "time": job.time,
        "partition": job.partition,
        "signal": f"B:USR1@{WARNING_S}",
        "requeue": True,
        "open-mode": "append",
    }
    directives = [
        f"#SBATCH --{option}" + ("" if value is True else f"={value}")
        for option, value in asked.items()
        if value is not None
    ]
    settings = [
        f"sweep={quote(job.sweep_file)}",
        f"results={quote(job.results)}",
        f"cpus={job.cpus_per_node}",
        f"gpus={job.gpus_per_node}",
        f'export PATH={quote(job.environment)}:"$PATH"',
    ]
    body = files("cluster.launch").joinpath("slurm.sh").read_text(encoding="utf-8")
    return HEADER + "\n".join(directives) + "\n\n" + "\n".join(settings) + "\n\n" + body
