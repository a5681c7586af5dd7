"""Jobs of a running cluster: commands that its head runs, wherever those who submitted them have gone."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from uuid import uuid4

from cluster.connect import join, shipping

JOB_STOP: Final = "RAY_JOB_STOP_WAIT_TIME_S"
"""Ray's environment variable that says how long a job may take to stop."""

STOP_S: Final = 60
"""For a job that is asked to stop, to do so by itself. Ray's own 3 s are less than a checkpoint takes."""

AGENT_S: Final = 20.0
"""For a head that was started just now to take jobs."""

POLL_S: Final = 1.0

SERVER: Final = "RAY_API_SERVER_ADDRESS"
"""Ray's environment variable that names a job server, which then counts whatever else is given."""

HEAD: Final = "node:__internal_head__"
"""Resource by which Ray marks the head."""

NO_SERVER: Final = (
    "the cluster has no job server: start its head with `ray start --head --include-dashboard true "
    "--dashboard-host 127.0.0.1` (and ray[default] installed)"
)
NO_AGENT: Final = "No available agent"
"""What a job server answers whose head does not take jobs, or not yet."""


@dataclass(frozen=True)
class JobState:
    """What is known of a job.

    Attributes:
        joined: whether its command has connected to the cluster.
        ended: whether it runs no more.
        exit_code: of its command; None while that runs, or if it could not be started.
        said: what it printed, once it has ended.
    """

    joined: bool
    ended: bool
    exit_code: int | None
    said: str


class JobServer:
    """Where jobs of a running cluster are submitted.

    Args:
        address: of the cluster, as `cluster.connect.join` takes it: "auto" or HOST:PORT.

    Attributes:
        url: of the job server.

    Raises:
        ConnectionError: no cluster answers there, or it has no job server that can be reached from here.
    """

    def __init__(self, address: str) -> None:
        # RAY_ADDRESS, which may be another cluster's, counts more for Ray's client than what it is given.
        self.url = os.environ.setdefault(SERVER, _url(address))
        from ray.job_submission import JobSubmissionClient

        with self._asked():
            self._client = JobSubmissionClient(self.url)

    def submit(self, command: Sequence[str], code: Sequence[Path] = ()) -> str:
        """Have the head run a command, in the environment and working folder that Ray was started in there.

        Args:
            command: to run.
            code: folders of packages that it, and all that it starts, imports in place of the nodes' own.

        Returns:
            The job's id.

        Raises:
            ConnectionError: the job server does not take it.
        """
        deadline_s = time.monotonic() + AGENT_S
        job_id = f"energyaware-{uuid4().hex[:8]}"
        while True:
            try:
                with self._asked():
                    return str(
                        self._client.submit_job(
                            entrypoint=shlex.join(command),
                            submission_id=job_id,
                            runtime_env={"env_vars": {JOB_STOP: str(STOP_S)}} | (shipping(code) or {}),
                        )
                    )
            except ConnectionError as problem:
                if NO_AGENT not in str(problem) or time.monotonic() > deadline_s:
                    raise
                time.sleep(POLL_S)

    def state(self, job_id: str) -> JobState:
        """How it goes with a job.

        Raises:
            ConnectionError: the job server does not say.
        """
        with self._asked():
            info = self._client.get_job_info(job_id)
            ended = info.status.is_terminal()
            said = self._client.get_job_logs(job_id) if ended and info.driver_exit_code is not None else info.message
        return JobState(info.driver_info is not None, ended, info.driver_exit_code, said or "")

    def stop(self, job_id: str) -> None:
        """Ask a job to stop.

        Raises:
            ConnectionError: the job server cannot be asked.
        """
        with self._asked():
            self._client.stop_job(job_id)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        from ray.exceptions import RayError

        try:
            yield
        except (RayError, RuntimeError, OSError) as problem:
            raise ConnectionError(f"its job server {self.url} says: {problem}") from None


def _url(address: str) -> str:
    """Of the cluster's job server.

    Raises:
        ConnectionError: as `JobServer`.
    """
    with join(address):
        import ray

        cluster = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR)
        place = cluster.dashboard_url
        nodes = {node["NodeID"]: node for node in ray.nodes()}
        here = nodes[ray.get_runtime_context().get_node_id()]
        head = next((node for node in nodes.values() if HEAD in node["Resources"]), here)
    if SERVER in os.environ:
        return os.environ[SERVER]
    if not place:
        raise ConnectionError(NO_SERVER)
    if head != here and _is_loopback(place):
        # On this machine, what listens there is nothing or another cluster's.
        name = head["NodeManagerAddress"]
        raise ConnectionError(
            f"its job server listens on the head's own {place}: run this on {name}, or through "
            f"`ssh -N -L 8265:{place} {name}` with {SERVER}=http://127.0.0.1:8265"
        )
    return f"http://{place}"


def _is_loopback(place: str) -> bool:
    host = place.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
