"""Commands of ways into a cluster: wait, slurm, kuberay."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from energyaware.errors import InputError
from sweep.options import Address, Results, SweepFile, cluster

Nodes = Annotated[int | None, typer.Option(min=1, help="Machines. Default: resources.nodes, else one.")]
CpusPerNode = Annotated[
    int | None, typer.Option(min=1, help="CPU cores of each. Default: what one trial needs, evenly spread.")
]
GpusPerNode = Annotated[int | None, typer.Option(min=0, help="GPUs of each. Default: what one trial needs.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write it there, not to stdout.")]


@cluster.command(epilog="Example: energyaware cluster wait 4 --address 10.0.0.1:6379")
def wait(
    nodes: Annotated[str, typer.Argument(metavar="NODES", help="How many, or the `ray up` file that names them.")],
    address: Address = "auto",
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait for them.")] = 900.0,
) -> None:
    """Come back once so many nodes have joined the cluster that this machine is a node of."""
    from cluster.launch.waiting import addresses_of, wait_for_nodes

    names: tuple[str, ...] = ()
    if nodes.isdecimal():
        number = int(nodes)
        if not number:
            raise InputError("", "NODES", "0 is not allowed: at least 1")
    else:
        try:
            names = addresses_of(Path(nodes).expanduser())
        except ValueError as problem:
            raise InputError(nodes, "", str(problem)) from None
        number = len(names)
    try:
        wait_for_nodes(address, number, seconds, names)
    except (ConnectionError, TimeoutError) as problem:
        raise InputError("--address", address, str(problem)) from None


@cluster.command(
    epilog="Example: energyaware cluster slurm sweep.yaml --nodes 2 --gpus-per-node 4 --time 12:00:00 -o job.sh"
    "\n\nThen: sbatch job.sh"
)
def slurm(
    file: SweepFile,
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    cpus_per_node: CpusPerNode = None,
    time: Annotated[str | None, typer.Option(help="Limit, as sbatch takes it. Default: the partition's.")] = None,
    partition: Annotated[str | None, typer.Option(help="Default: Slurm's.")] = None,
    share_nodes: Annotated[
        bool, typer.Option("--share-nodes", help="Let others' jobs onto the nodes, and into what their counters say.")
    ] = False,
    results: Results = None,
    output: Output = None,
) -> None:
    """Write an sbatch script that runs a sweep, and goes on with it after preemption or its time limit.

    Sweep file, results and this environment must have the same path on every node.
    """
    from cluster.launch.slurm import SlurmJob, sbatch_script
    from sweep.launch import nodes_for
    from sweep.output import put
    from sweep.sweep_file import load

    sweep = load(file)
    asked = nodes_for(sweep.resources, nodes, cpus_per_node, gpus_per_node)
    where = results or sweep.results
    with _options_named():
        job = SlurmJob(
            name=sweep.name,
            sweep_file=str(file.resolve()),
            results=where if "://" in where else str(Path(where).resolve()),
            environment=sysconfig.get_path("scripts"),
            nodes=asked.number,
            cpus_per_node=asked.cpus,
            gpus_per_node=asked.gpus,
            exclusive=not share_nodes,
            time=time,
            partition=partition,
        )
    put(sbatch_script(job), output)


@cluster.command(
    epilog="Example: energyaware cluster kuberay sweep.yaml --image registry.example.org/energyaware:1 --nodes 2 "
    "--gpus-per-node 8 --claim results -o job.yaml\n\nThen: kubectl apply -f job.yaml"
)
def kuberay(
    file: SweepFile,
    image: Annotated[str, typer.Option(help="Container image with energyaware\\[run] installed.")],
    nodes: Nodes = None,
    gpus_per_node: GpusPerNode = None,
    cpus_per_node: CpusPerNode = None,
    memory_per_node: Annotated[str | None, typer.Option(help="Such as 64Gi. Default: no limit.")] = None,
    claim: Annotated[
        str | None,
        typer.Option(help="PersistentVolumeClaim that many pods can mount; they see it as /shared.", metavar="PVC"),
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Default: that of kubectl.")] = None,
    results: Results = None,
    output: Output = None,
) -> None:
    """Write a RayJob that runs a sweep on pods with GPUs. Results go to the claim's volume, or to a URL.

    Needs KubeRay 1.5.1 or later, which makes the cluster's token and keeps it in a Secret.
    """
    from cluster.launch.kuberay import RayJob, manifest
    from sweep.launch import for_pods, nodes_for
    from sweep.output import put
    from sweep.sweep_file import load

    sweep = load(file)
    asked = nodes_for(sweep.resources, nodes, cpus_per_node, gpus_per_node)
    content, where = for_pods(sweep, file, results, asked)
    with _options_named():
        job = RayJob(
            name=sweep.name,
            sweep=content,
            results=where,
            image=image,
            nodes=asked.number,
            cpus_per_node=asked.cpus,
            gpus_per_node=asked.gpus,
            memory_per_node=memory_per_node,
            claim=claim,
            namespace=namespace,
        )
    put(manifest(job), output)


@contextmanager
def _options_named() -> Iterator[None]:
    """A value that cannot be used is named by the option it was given with."""
    try:
        yield
    except ValueError as problem:
        attribute, _, what = str(problem).partition(": ")
        raise InputError(f"--{attribute.replace('_', '-')}", "", what) from None
