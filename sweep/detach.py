"""Runs that outlive the terminal they were started in: as a job of a cluster, or as a process of its own here."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

from cluster.jobs import JobServer
from energyaware.energy.ledger_file import FOLDER as LEDGERS
from energyaware.errors import InputError
from energyaware.lease import FOLDER as LEASES
from energyaware.lease import Lease, newest_lease, this_process
from energyaware.store import Store
from sweep.extra import require_run_extra
from sweep.own_code import own_code
from sweep.sweep_file import dump, load

if TYPE_CHECKING:
    from rich.console import Console

    from energyaware.rows import Row
    from sweep.config import Sweep

RECORD: Final = "detached.json"
"""Of the results: the latest detached run."""

LOG: Final = "run.log"
"""Of the results: what detached processes printed, one after the other."""

BEGIN_S: Final = 60.0
"""For a run to refuse what it is given, or to begin. One that has done neither may be reading large data."""

POLL_S: Final = 0.25

COMMAND: Final = (sys.executable, "-u", "-P", "-m", "sweep")
"""This environment's command line. -u: its log is read while it runs; -P: modules of the working folder are not its."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, and what it printed."""

    exit_code: int
    said: str

    def told(self) -> str:
        """Its one line, if it was refused; else all of it."""
        lines = self.said.strip().splitlines()
        return lines[-1] if lines and lines[-1].startswith("error: ") else "\n".join(lines)


class Detached(Protocol):
    """A run that goes on without whoever started it."""

    def holds_results(self) -> bool:
        """Whether it is this run that has them."""

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""

    def stop(self) -> None:
        """Ask it to stop."""

    def record(self) -> Row:
        """Where it can be found, for programs."""

    def told(self) -> Sequence[str]:
        """Where it can be found, and how it is stopped, for people."""


def detach(
    sweep_file: Path | None,
    results: str,
    address: str,
    options: Sequence[str],
    console: Console,
    *,
    ship_code: bool = False,
) -> int:
    """Start a run that outlives this process and its terminal, and wait until it has begun.

    Args:
        sweep_file: what to run; None to go on with what the results ask for.
        results: folder or URL. A cluster's head has to find it under the same name.
        address: "local" for a process on this machine; "auto" or HOST:PORT for a job of that cluster.
        options: others of `energyaware run`, as they are typed.
        console: for where the run can be found. What it failed with goes where errors go.
        ship_code: have a cluster run this installation's code.

    Returns:
        0 of a run that is at work; of one that has ended already, its exit code.

    Raises:
        InputError: the sweep file cannot be used, Ray is not installed, another run holds the results, or no cluster
            takes the job.
        StorageError: the results cannot be read or written.
    """
    sweep = load(sweep_file) if sweep_file else None
    require_run_extra(["ray"])
    store = Store(results)
    earlier = frozenset(store.files.names(LEDGERS))
    run: Detached
    if address == "local":
        before = _claim(store, None)
        asked = ["run", str(sweep_file.resolve()), "--results", store.url] if sweep_file else ["resume", store.url]
        run = _Process([*COMMAND, *asked, *options], store, before)
    else:
        try:
            server = JobServer(address)
            _claim(store, sweep)
            # What it runs lies in the results: the file that was given here may not be there on the head.
            with own_code() if ship_code else nullcontext(()) as code:
                run = _Job(server, [*COMMAND, "resume", store.url, "--address", "auto", *options], code)
        except ConnectionError as problem:
            raise InputError("--address", address, str(problem)) from None
    with console.status("waiting for the run to begin"):
        ended, sure = _begin(run, store, earlier)
    if ended is not None:
        print(ended.told(), file=sys.stderr if ended.exit_code else console.file)
        return ended.exit_code
    about = run.record() | {"started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    store.write_text(RECORD, json.dumps(about, indent=1))
    doubt = () if sure else (f"it has not begun within {BEGIN_S:.0f} s, nor refused anything: see what it prints",)
    for line in (*run.told(), f"watch it with energyaware status {shlex.quote(store.url)} --watch", *doubt):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _claim(store: Store, sweep: Sweep | None) -> int:
    """Refuse at once what another run holds, and keep in the results what a job is to run.

    Returns:
        Number of a lease that is released by now: the run's own comes after it.
    """
    store.create()
    with Lease.take(store.files, this_process()) as lease:
        store.fence(lease.number)
        if sweep is not None:
            store.write_text("sweep.yaml", dump(sweep.model_copy(update={"results": store.url})))
        store.fence(None)
        return lease.number


def _begin(run: Detached, store: Store, earlier: frozenset[str]) -> tuple[Ended | None, bool]:
    """Wait until a run's meters keep ledgers, other than earlier ones: by then, all that can be refused was not.

    Returns:
        How it ended, if it did so first; whether it is known to have done either.
    """
    deadline_s = time.monotonic() + BEGIN_S
    try:
        while time.monotonic() < deadline_s:
            with suppress(ConnectionError):  # a job server may be busy
                if (ended := run.ended()) is not None:
                    return ended, True
                if run.holds_results() and not earlier.issuperset(store.files.names(LEDGERS)):
                    return None, True
            time.sleep(POLL_S)
    except BaseException:
        with suppress(ConnectionError):
            run.stop()
        raise
    return None, False


class _Process:
    """A session of its own: it has no terminal that could be closed.

    Args:
        command: to run.
        store: the results; where they are no folder, the log is in the working folder.
        before: the lease that comes before its own.
    """

    def __init__(self, command: Sequence[str], store: Store, before: int) -> None:
        self._store, self._before = store, before
        self._log = store.root / LOG if store.root else Path(f"{PurePosixPath(store.url).name}.log").resolve()
        with self._log.open("ab") as output:
            self._from = output.tell()
            self._child = subprocess.Popen(  # noqa: S603 - our own
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def holds_results(self) -> bool:
        newest = newest_lease(self._store.files)
        if newest <= self._before:
            return False
        lease = json.loads(self._store.read_text(f"{LEASES}/{newest:06d}.json") or "{}")
        return (lease.get("host"), lease.get("pid")) == (socket.gethostname(), self._child.pid)

    def ended(self) -> Ended | None:
        code = self._child.poll()
        if code is None:
            return None
        with self._log.open("rb") as log:
            log.seek(self._from)
            said = log.read().decode(errors="replace")
        return Ended(code if code >= 0 else 128 - code, said)  # as a shell says what a signal ended

    def stop(self) -> None:
        self._child.terminate()

    def record(self) -> Row:
        return {"address": "local", "host": socket.gethostname(), "pid": self._child.pid, "log": str(self._log)}

    def told(self) -> Sequence[str]:
        return (
            f"detached as process {self._child.pid}; it prints to {self._log}",
            f"stop it with kill {self._child.pid}: running fine-tunings leave a checkpoint first",
        )


class _Job:
    """A job that the cluster's head holds.

    Args:
        server: takes it.
        command: to run there.
        code: that it is to run with, in place of the nodes' own.
    """

    def __init__(self, server: JobServer, command: Sequence[str], code: Sequence[Path]) -> None:
        self._server, self._id = server, server.submit(command, code)

    def holds_results(self) -> bool:
        return self._server.state(self._id).joined  # which a run does that has the results

    def ended(self) -> Ended | None:
        state = self._server.state(self._id)
        return Ended(1 if state.exit_code is None else state.exit_code, state.said) if state.ended else None

    def stop(self) -> None:
        self._server.stop(self._id)

    def record(self) -> Row:
        return {"job": self._id, "server": self._server.url}

    def told(self) -> Sequence[str]:
        at = f"{self._id} --address {self._server.url}"
        return (
            f"detached as Ray job {self._id}; what it prints: ray job logs {at}",
            f"stop it with ray job stop {at}: running fine-tunings leave a checkpoint first",
        )
