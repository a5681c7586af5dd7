"""How Ray's own processes are started on this machine, where Ray has no setting for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial


@contextmanager
def apart_and_light() -> Iterator[None]:
    """What Ray starts inside the block gets a session of its own, and no server that nobody asks.

    A closed terminal, `timeout` and Slurm signal a whole group: the launcher needs Ray to stop its stages well. And
    the raylet waits for the dashboard's agent, which takes 5 s to load its web server, unless the agent is the minimal
    one of an installation without the dashboard. Nodes of a cluster are started by `ray start`, with all that.
    """
    from ray._private import services, utils

    start, missing = services.ConsolePopen, utils.get_dashboard_dependency_error
    services.ConsolePopen = partial(start, start_new_session=True)
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted here")
    try:
        yield
    finally:
        services.ConsolePopen, utils.get_dashboard_dependency_error = start, missing
