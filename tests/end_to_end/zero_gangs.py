"""A program for a host of a cluster: one fine-tuning under each ZeRO stage, by a gang over two nodes and by one on one.

Prints losses of the epochs by gang and ZeRO stage.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from ray.util.placement_group import placement_group, remove_placement_group

from cluster.connect import join
from cluster.gang import Gang, WorkerResources
from energyaware.energy.base import NullMeter
from energyaware.precision import Hardware
from energyaware.spec import stage_id
from energyaware.stage import run_stage, warm_up
from energyaware.store import Store
from sweep.plan import make_plan
from sweep.sweep_file import load

GANGS = {"two nodes": ("STRICT_SPREAD", [1, 1]), "one node": ("STRICT_PACK", [2])}


def losses(gang, spec, folder):
    store, name = Store(folder), stage_id(spec)
    store.create()
    with store.scratch(name):
        outcome = gang.run(run_stage, lambda rank: (name, spec, rank, NullMeter(), store))[0]
    return [[epoch["loss"], epoch["validation_loss"]] for epoch in outcome.epochs]


def main(address, file, folder):
    spec = next(iter(make_plan(load(Path(file)), Hardware("cpu")))).spec
    found = {}
    with join(address):
        for title, (strategy, shape) in GANGS.items():
            group = placement_group([{"CPU": 0.5 * workers} for workers in shape], strategy=strategy)
            gang = Gang(group, WorkerResources(0.5, 0, "cpu"), shape, warm_up)
            assert len(set(gang.node_ids)) == len(shape)
            found[title] = [
                losses(gang, replace(spec, zero_stage=stage), Path(folder) / f"{title}-{stage}") for stage in range(4)
            ]
            gang.dismiss()
            remove_placement_group(group)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
