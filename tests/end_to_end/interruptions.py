"""Killing a process of a sweep while it, or another one, is held at a named point (see `energyaware.points`)."""

import contextlib
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from energyaware.points import FOLDER
from tests.end_to_end.command import COMMAND

REACH_S = 150.0
END_S = 200.0
GONE_S = 60.0
DIE_S = 8.0
"""For whoever waits at the point to die of the loss, where it does; otherwise it then goes on."""

TITLES = {
    "stage actor": "ray::ResourceTrainable",
    "meter": "ray::NodeMeter",
    "rank 0": "ray::Worker",
    "rank 1": "ray::Worker",
}


@dataclass(frozen=True)
class Interruption:
    """Whom to kill when a point is reached for the n-th time in a launch."""

    point: str
    victim: str
    n: int = 1

    def __str__(self):
        return f"{self.point}{f' #{self.n}' if self.n > 1 else ''}: {self.victim}"


@dataclass
class Launch:
    """One launch of the command: how it ended, what it said, the points it went by, seconds to its first step."""

    returncode: int
    output: str
    folder: Path
    first_step_s: float | None

    @property
    def reached(self):
        """Points that were reached, and by whom."""
        return read_log(self.folder)

    @property
    def steps(self):
        """Optimizer steps that were taken."""
        return sum(point == "step" for point, _ in self.reached)


class Points:
    """A folder that points are noted in, fresh for each launch; and a name for it that stays."""

    def __init__(self, root):
        self.name, self._root, self._count = root / "points", root, 0

    def renew(self, hold=None):
        """Have an empty folder, in which a point is to be held."""
        self._count += 1
        self.folder = self._root / f"points-{self._count}"
        self.folder.mkdir(parents=True)
        if hold:
            (self.folder / "hold").write_text(f"{hold.point} {hold.n}")
        link = self._root / "points.new"
        link.symlink_to(self.folder.name)
        link.replace(self.name)

    def held(self):
        """Whether somebody waits there."""
        return (self.folder / "held").exists()

    def release_the_living(self, after_s):
        """Let whoever waits go on, if it is still alive then: what is stopped with the run must not finish it first."""
        holder, deadline_s = int((self.folder / "held").read_text()), time.monotonic() + after_s
        while is_alive(holder) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        self.release()

    def release(self):
        """Let whoever waits go on."""
        (self.folder / "go").touch()


def read_log(folder):
    """Point and process of every note in a folder."""
    log = folder / "log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(point, int(pid)) for point, pid in lines]


class LocalMachine:
    """The sweep on a Ray of its own, on this machine."""

    address = "local"

    def __init__(self, folder, environment):
        self.points, self._environment = Points(folder), environment

    def start(self, command, cwd, output):
        """Start the command."""
        environment = self._environment | {FOLDER: str(self.points.folder)}
        return subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def processes(self, driver):
        """All that the command has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(driver.pid).children(recursive=True)
        return []

    def kill_host(self, victim, driver):
        """There is none to lose."""
        raise ValueError(victim)

    def renew(self):
        """Nothing of a case outlives it on one machine."""

    def heal(self):
        """Nothing was lost."""


class ClusterOfHosts:
    """The sweep on a cluster of hosts, launched on its head; Ray there has the name of the points' folder."""

    def __init__(self, cluster, points):
        self.points, self._cluster, self._lost = points, cluster, set()
        self.address = cluster.address

    def start(self, command, cwd, output):
        """Start the command on the head."""
        return self._cluster.hosts[0].popen(command, cwd=cwd, output=output, **{FOLDER: str(self.points.name)})

    def processes(self, driver):
        """All of Ray's, on all hosts."""
        return [process for host in self._cluster.hosts for process in host.processes()]

    def kill_host(self, victim, driver):
        """Kill Ray on the head, or on another host where a rank is."""
        lost = self._cluster.hosts[0]
        if victim == "worker host":
            lost = next(host for host in list(self._cluster.hosts)[1:] if titled(host.processes(), "ray::Worker"))
        self._cluster.kill_raylet(lost.index)
        self._lost.add(lost.index)

    def renew(self):
        """Begin anew, whatever a case has left."""
        self._lost = {0}
        self.heal()

    def heal(self):
        """Have all hosts again."""
        if 0 in self._lost:
            self._cluster.stop()
            self._lost = {host.index for host in self._cluster.hosts}
        for index in sorted(self._lost):
            self._cluster.restart(index)
        self._lost = set()


@dataclass
class Story:
    """A sweep that is launched until it is done, and interrupted on the way."""

    home: Path
    arguments: list[str]
    machine: LocalMachine | ClusterOfHosts
    launches: list[Launch] = field(default_factory=list)
    at_work: list[psutil.Process] = field(default_factory=list)

    def launch(self, interruption=None):
        """Launch the command to its end, or to its interruption and then to its end."""
        points = self.machine.points
        points.renew(interruption)
        began_s, first_step_s = time.monotonic(), None
        with (points.folder / "output").open("w+") as output:
            process = self.machine.start([COMMAND, *map(str, self.arguments)], self.home, output)
            try:
                if interruption:
                    self._until_held(process, interruption)
                    self._kill(interruption.victim, process)
                    points.release_the_living(DIE_S if interruption.victim != "meter" else 0)
                    self.machine.heal()
                else:
                    first_step_s = self._first_step_s(process, began_s)
                process.wait(timeout=END_S)
            finally:
                points.release()
                process.kill()
                process.wait()
                said = (points.folder / "output").read_text()
                self.launches.append(Launch(process.returncode, said, points.folder, first_step_s))
        return self.launches[-1]

    def finish(self, most=3):
        """Launch it again until it says that it is done."""
        for _ in range(most):
            if self.launches and self.launches[-1].returncode == 0:
                return
            self.launch()
        assert self.launches[-1].returncode == 0

    @property
    def told(self):
        """What all launches said."""
        return "\n".join(f"-- exit code {launch.returncode}\n{launch.output}" for launch in self.launches)

    def survivors(self):
        """Processes that were at work when somebody was killed, and still are."""
        return psutil.wait_procs(self.at_work, timeout=GONE_S)[1]

    def _until_held(self, process, interruption):
        deadline_s = time.monotonic() + REACH_S
        while not self.machine.points.held():
            assert process.poll() is None, f"{interruption} was not reached"
            assert time.monotonic() < deadline_s, f"{interruption} was not reached in {REACH_S:.0f} s"
            time.sleep(0.02)

    def _first_step_s(self, process, began_s):
        while process.poll() is None:
            if any(point == "step" for point, _ in read_log(self.machine.points.folder)):
                return time.monotonic() - began_s
            time.sleep(0.1)
        return None

    def _kill(self, victim, driver):
        everything = self.machine.processes(driver)
        self.at_work += [process for title in set(TITLES.values()) for process in titled(everything, title)]
        if victim in {"driver", "command"}:
            driver.kill()
        elif victim in {"worker host", "head"}:
            self.machine.kill_host(victim, driver)
        else:
            self._pick(victim, titled(everything, TITLES[victim])).kill()

    def _pick(self, victim, candidates):
        """Of the processes with one title the one that is meant: only ranks have namesakes, and rank 0 takes steps."""
        if victim.startswith("rank"):
            leaders = {pid for point, pid in read_log(self.machine.points.folder) if point in {"step", "measured"}}
            candidates = [each for each in candidates if (each.pid in leaders) == (victim == "rank 0")]
        assert candidates, f"no {victim} at work"
        return candidates[0]


def is_alive(pid):
    """Whether it runs; to wait for it is left to who started it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def titled(processes, title):
    """Those whose title begins so; Ray names its processes after what they do."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith(title):
                found.append(process)
    return found
