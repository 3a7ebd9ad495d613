"""A Slurm of two nodes on this machine, with daemons, ports and folders of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin:/usr/local/sbin"
CGROUPS = Path("/sys/fs/cgroup")


def absent() -> str:
    """Why there can be no cluster here; empty where there can be one."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not on the path: {', '.join(missing)}; make system installs Slurm (root, apt)"
    return "slurmd needs root" if os.geteuid() else ""


def limits_memory() -> bool:
    """Whether cgroups (version 1, as Slurm 22.05 knows them) can be made here."""
    return (
        os.access(CGROUPS / "memory" / "cgroup.procs", os.W_OK) and (CGROUPS / "freezer").is_dir()
    )


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """munged, slurmctld and two slurmd, children of this process. No accounting: none is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.clients: list[subprocess.Popen[bytes]] = []
        """What waits for its jobs."""
        self.environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self.environ.pop("OMP_NUM_THREADS", None)  # Slurm says how many
        for name in ("state", "spool"):
            (folder / name).mkdir()
        control, one, two = free_ports(3)
        host = socket.gethostname()
        key = folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        cgroup = limits_memory()
        (folder / "cgroup.conf").write_text(
            f"CgroupAutomount=no\nCgroupMountpoint={CGROUPS}\nCgroupPlugin=cgroup/v1\n"
            "ConstrainRAMSpace=yes\nConstrainCores=no\nConstrainDevices=no\n"
        )
        self.nodes = [f"t{os.getpid()}{name}" for name in "ab"]
        (folder / "slurm.conf").write_text(f"""\
ClusterName=attrscore
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=8
SlurmctldPort={control}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/{"cgroup" if cgroup else "linuxproc"}
TaskPlugin=task/{"cgroup" if cgroup else "none"}
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=2
SlurmdTimeout=15
NodeName=DEFAULT CPUs=2 RealMemory=8000
NodeName={self.nodes[0]} NodeAddr=127.0.0.1 NodeHostname={host} Port={one} Weight=1
NodeName={self.nodes[1]} NodeAddr=127.0.0.1 NodeHostname={host} Port={two} Weight=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
""")

    def start(self) -> None:
        f = self.folder
        self._start(
            *("munged", "--foreground", "--force", f"--key-file={f}/munge.key", "--num-threads=4"),
            *(f"--socket={f}/munge.socket", f"--pid-file={f}/munged.pid"),
            *(f"--log-file={f}/munged.log", f"--seed-file={f}/munge.seed"),
        )
        self.wait((f / "munge.socket").exists, "munge")
        self._start("slurmctld", "-D", "-c")
        for node in self.nodes:
            self._start("slurmd", "-D", "-N", node)
        self.wait(lambda: self.call("sinfo", "-h", "-o", "%T").split() == ["idle"], "idle nodes")

    def _start(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=PATH)
        with (self.folder / f"{name}.out").open("ab") as log:
            self.running[" ".join([name, *arguments[-1:]])] = subprocess.Popen(
                [str(program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )

    def kill(self, node: str) -> None:
        """As if its plug were pulled: the daemon, and all that it runs."""
        jobs = self.call("squeue", "-h", "-w", node, "-o", "%A").split()
        daemon = self.running.pop(f"slurmd {node}")
        daemon.kill()
        daemon.wait()
        steps = tuple(f"slurmstepd: [{job}.".encode() for job in jobs)
        ours, there = (
            f"{name}\0".encode()
            for name in (f"SLURM_CONF={self.folder}/slurm.conf", f"SLURMD_NODENAME={node}")
        )
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = (path / "environ").read_bytes()
                runs_there = there in environ or (path / "cmdline").read_bytes().startswith(steps)
                if ours in environ and steps and runs_there:
                    os.kill(int(path.name), signal.SIGKILL)

    def call(self, *command: str) -> str:
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Each job in the queue -> its state and its node."""
        lines = self.call("squeue", "-r", "-h", "-o", "%i|%T|%N").splitlines()
        return {job: (state, node) for job, state, node in (line.split("|") for line in lines)}

    def wait(self, ready, what: str, seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while not ready():
            dead = [name for name, each in self.running.items() if each.poll() is not None]
            if dead or time.monotonic() > until:
                logs = [
                    f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
                    for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
                ]
                raise RuntimeError(f"no {what}: {dead or 'too late'}\n" + "\n".join(logs))
            time.sleep(0.2)

    def stop(self) -> None:
        """Jobs first, then the daemons in the reverse order, each by its own process id."""
        for each in self.clients:
            each.kill()
            each.wait()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.call("scancel", "--full", "-u", "root")
            until = time.monotonic() + 20
            while self.jobs() and time.monotonic() < until:
                time.sleep(0.3)
        for each in reversed(self.running.values()):
            each.terminate()
            try:
                each.wait(15)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
        for node in self.nodes:
            for folder in CGROUPS.glob(f"*/slurm_{node}"):
                for path, _, _ in os.walk(folder, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(path).rmdir()
