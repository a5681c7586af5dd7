"""What every node needs before stages start on it: the base models and the data, once per machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import ray

from cluster.calls import on_each
from energyaware.errors import InputError
from energyaware.model_ref import pinned
from energyaware.models import folder_of
from energyaware.spec import DataRef, ModelRef
from energyaware.tasks.data import local_files

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.left import Left
    from sweep.plan import PlannedStage

TOLD_S: Final = 5.0
"""What took a node so long to bring is worth a line."""

POLL_S: Final = 0.5


@dataclass(frozen=True)
class _Brought:
    """What a node is asked to bring, and the name of the node."""

    what: str
    node: str


def pin_models(left: Left) -> Left:
    """The same stages, of models of the hub at the commit that their revision is now: all nodes load the same.

    Raises:
        InputError: the hub does not have a model, or does not let this user have it.
    """
    at: dict[ModelRef, ModelRef] = {}
    tries = []
    for each in left.tries:
        spec = each.stage.spec
        if spec.model not in at:
            at[spec.model] = pinned(spec.model)
        tries.append(replace(each, stage=replace(each.stage, spec=replace(spec, model=at[spec.model]))))
    return replace(left, tries=tuple(tries))


def prepare(stages: Sequence[PlannedStage], nodes: Mapping[str, str], *, on_gpus: bool, console: Console) -> None:
    """Have base models and data on every node that stages can run on, before workers want them.

    A node that is lost meanwhile, or joins later, does it when a stage is on it.

    Args:
        stages: to run.
        nodes: names of the nodes, by Ray's id.
        on_gpus: whether workers hold GPUs.
        console: shows what is waited for, and tells what took long.

    Raises:
        InputError: a node cannot have a model or the data; it names the node.
    """
    every: list[ModelRef | DataRef] = [*(stage.spec.model for stage in stages)]
    every += [stage.spec.data for stage in stages if stage.spec.data.kind != "builtin"]
    has = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    able = [node for node in nodes if has.get(node, {}).get("GPU" if on_gpus else "CPU")]
    alone = able == [ray.get_runtime_context().get_node_id()]
    asked: dict[Any, _Brought] = {}
    for wanted in dict.fromkeys(every):
        if alone and wanted.kind in {"folder", "files"}:  # there already, or to be copied: not worth a process
            bring(wanted)
            continue
        for node in able:
            task = _bring(node, has[node]["CPU"] if wanted.kind == "builtin" else 0, wanted)
            asked[task] = _Brought(wanted.name, nodes[node])
    with console.status("") as shown:
        while asked:
            shown.update(_waited_for(asked.values()))
            done, _ = ray.wait(list(asked), num_returns=1, timeout=POLL_S)
            for task in done:
                _tell(asked.pop(task), task, console)


def _bring(node: str, cpus: float, wanted: ModelRef | DataRef) -> Any:
    # The built-in model is made with all of a node's CPUs: Ray gives a task as many threads as it holds.
    return on_each([node], bring, lambda _: (wanted,), cpus=cpus)[node]


def bring(wanted: ModelRef | DataRef) -> float:
    """Have a model or data on this machine. Returns the seconds that took."""
    began_s = time.monotonic()
    if isinstance(wanted, ModelRef):
        folder_of(wanted)
    else:
        local_files(wanted)
    return time.monotonic() - began_s


def _waited_for(asked: Iterable[_Brought]) -> str:
    """Such as `bringing meta-llama/Llama-3.1-8B to host0, host1`."""
    where: dict[str, list[str]] = {}
    for each in asked:
        where.setdefault(each.what, []).append(each.node)
    return "; ".join(f"bringing {what} to {', '.join(sorted(names))}" for what, names in where.items())


def _tell(brought: _Brought, task: Any, console: Console) -> None:
    try:
        took_s = ray.get(task)
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, InputError):
            cause = problem.cause
            raise InputError(cause.source, cause.field, f"on {brought.node}: {cause.problem}") from None
        raise
    except ray.exceptions.RayError:  # the node is gone: stages find that out where they are placed
        return
    if took_s > TOLD_S:
        line = f"{brought.what} is on {brought.node} after {took_s:.0f} s"
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
