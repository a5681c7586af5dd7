"""A real Slurm on hosts of tests/hosts.py: munge and slurmd on each, the controller on the first."""

import secrets
import time
from contextlib import ExitStack

from tests.daemons import booted

READY_S = 60.0

CONFIGURATION = """
ClusterName=tests
SlurmctldHost={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={munge},cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
MpiDefault=none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
"""cred_expire: so many seconds a job that was queued again has to wait; 120 by default."""

DAEMONS = """
mount -t tmpfs tmpfs /sys/fs/cgroup  # hidden on hosts; slurmd wants one there, even if it keeps nothing in it
munged --force --key-file "$1/munge.key" --socket "$2" --pid-file "$1/munged-$3.pid" --log-file "$1/munged-$3.log" \
    --seed-file "$1/munged-$3.seed"
test "$3" != host0 || slurmctld
slurmd -N "$3"
exec sleep infinity
"""


class Slurm:
    """Slurm on hosts, inside a `with`.

    Args:
        hosts: where.
        cpus: of each, whatever it has.

    Attributes:
        environment: variables that Slurm's commands want.
    """

    def __init__(self, hosts, cpus):
        self.hosts, self._cpus = hosts, cpus
        self.folder = hosts.folder / "slurm"
        self._daemons = ExitStack()
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "ENERGYAWARE_TMP": str(hosts.temporary)}

    def __enter__(self):
        (self.folder / "state").mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        munge = self.hosts.temporary / "munge.socket"  # another one on each host
        controller = f"{self.hosts[0].name}({self.hosts[0].address})"
        nodes = "\n".join(
            f"NodeName={host.name} NodeAddr={host.address} CPUs={self._cpus} RealMemory=1000" for host in self.hosts
        )
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(controller=controller, munge=munge, folder=self.folder, nodes=nodes)
        )
        for host in self.hosts:
            daemons = ["bash", "-c", DAEMONS, "bash", self.folder, munge, host.name]
            self._daemons.enter_context(booted(host, daemons, self.folder / f"{host.name}.log", **self.environment))
        try:
            self._wait()
        except BaseException:
            self._daemons.close()
            raise
        return self

    def __exit__(self, *_):
        self._daemons.close()

    def _wait(self):
        deadline_s = time.monotonic() + READY_S
        while set(self.ask("sinfo", "--noheader", "--Node", "--format=%T").split()) != {"idle"}:
            assert time.monotonic() < deadline_s, (self.folder / "slurmctld.log").read_text()
            time.sleep(0.5)

    def ask(self, *command, cwd=None):
        """What one of Slurm's commands prints, whether it succeeds or not."""
        with self.hosts[0].popen(command, cwd=cwd, **self.environment) as process:
            output, errors = process.communicate(timeout=READY_S)
        return output + errors
