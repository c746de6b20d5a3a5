"""A SLURM of its own in a temporary folder, for as long as a test lasts: one node, two CPUs.

Control groups are off, so that it starts in a container, too: SLURM then finds the processes of a
job as children of its own, and binds them to cores by their affinity. Accounting is off as well:
SLURM 20.11 and later have it in a database only. `sacct --completion` reads the plain file of ended
jobs.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.postgres.cluster import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
PLACES = ("/usr/sbin", "/usr/local/sbin")
CONF = """\
ClusterName=mambalab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskPluginParam=autobind=cores
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def program(name: str) -> str | None:
    """Where a program of SLURM is; None if it is not there."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


def missing() -> str | None:
    """Why there can be no SLURM here; None if there can."""
    if lacking := [name for name in PROGRAMS if program(name) is None]:
        return f"not installed: {', '.join(lacking)} (Debian: slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "slurmd has to be started by root"
    return None


class Slurm:
    """The daemons of a cluster of one node.

    Args:
        folder: holds all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self.host = socket.gethostname().split(".")[0]
        self._daemons: list[subprocess.Popen[bytes]] = []

    def environment(self) -> dict[str, str]:
        """Variables with which SLURM's commands find this cluster."""
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        return {**outer, "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Write the configuration and start the daemons; returns when the node takes jobs."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        ports = {"controller": free_port(), "node": free_port()}
        self.conf.write_text(CONF.format(folder=self.folder, host=self.host, **ports))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        files |= {"seed-file": "seed"}
        words = [f"--{option}={self.folder}/munge.{end}" for option, end in files.items()]
        self._begin("munged", "--foreground", "--force", *words)
        self._wait((self.folder / "munge.socket").exists, "munged listens")
        self._begin("slurmctld", "-D", "-f", str(self.conf))
        self._begin("slurmd", "-D", "-f", str(self.conf), "-N", self.host)
        self._wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), "the node is idle")

    def _begin(self, name: str, *words: str) -> None:
        path = program(name)
        assert path is not None, missing()
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    [path, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment(),
                    start_new_session=True,  # Ctrl-C is for the test
                )
            )

    def _wait(self, ready: Callable[[], object], what: str) -> None:
        """Wait for a daemon; fails at once if one of them has ended."""

        def ended_or_ready() -> object:
            ended = [str(daemon.args) for daemon in self._daemons if daemon.poll() is not None]
            assert not ended, f"ended at its start: {', '.join(ended)}"
            return ready()

        wait_until(ended_or_ready, what)

    def ask(self, *words: str) -> str:
        """What one of SLURM's commands prints; the empty string if it fails."""
        done = subprocess.run(
            words, env=self.environment(), capture_output=True, text=True, timeout=300
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def state(self, job: str) -> str:
        """The state of a job in the queue, `RUNNING` say; the empty string if it is not there."""
        return self.ask("squeue", "--noheader", "--format=%T", f"--jobs={job}")

    def ended(self) -> list[str]:
        """What `sacct --completion` knows of ended jobs, a line for each and for each start."""
        form = "--format=JobID,JobName,State"
        return self.ask("sacct", "--completion", "--noheader", "--parsable2", form).splitlines()

    def stop(self) -> None:
        """Cancel all jobs and end the daemons, and whatever one of them has started."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self.ask("scancel", "--user=root", "--signal=KILL", "--full")
            self.ask("scancel", "--user=root")
        for daemon in reversed(self._daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for _ in range(3):  # a process that is being killed may start another
            for pid in self._processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        for daemon in self._daemons:
            daemon.wait()

    def _processes(self) -> list[int]:
        """Living processes with this cluster in their environment."""
        mark = f"SLURM_CONF={self.conf}".encode()
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    found.append(int(name))
        return found


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A running cluster; it and its files are gone afterwards.

    Raises:
        AssertionError: it does not start; with what its daemons said.
    """
    folder = Path(tempfile.mkdtemp(prefix="mambalab-slurm-"))
    it = Slurm(folder)
    try:
        try:
            it.start()
        except AssertionError as error:
            files = [*folder.glob("slurm*.out"), *folder.glob("slurm*.log")]
            said = [p.read_text(errors="replace")[-1000:].strip() for p in sorted(files)]
            raise AssertionError("\n".join([str(error), *said])) from error
        yield it
    finally:
        it.stop()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(ready: Callable[[], object], what: str, seconds: float = 300.0) -> None:
    """Poll until `ready()`; fails after some time."""
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"never happened in {seconds:.0f} s: {what}"
        time.sleep(0.1)
