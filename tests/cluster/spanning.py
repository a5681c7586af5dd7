"""A program for a host of a cluster: forms a gang of one worker per node, and prints what its ranks found."""

import json
import os
import sys

from ray.util.placement_group import placement_group

from cluster.connect import join
from cluster.gang import Gang, WorkerResources


def nothing():
    pass


def look_around(rank):
    import torch

    together = torch.tensor([float(rank.rank + 1)])
    torch.distributed.all_reduce(together)
    interfaces = [os.environ[f"{library}_SOCKET_IFNAME"] for library in ("GLOO", "NCCL")]
    return {"node": rank.node, "local_rank": rank.local_rank, "sum": together.item(), "interfaces": interfaces}


def main(address, size):
    with join(address):
        resources = WorkerResources(cpus=1, gpus=0, device="cpu")
        gang = Gang(placement_group([resources.bundle] * size), resources, [1] * size, nothing)
        print(json.dumps(gang.run(look_around, lambda rank: (rank,))))
        gang.dismiss()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
