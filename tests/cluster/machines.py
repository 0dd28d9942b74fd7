"""A real Slurm and a real Ray of two nodes each, on this one machine: what `make test-cluster` sweeps on."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
StateSaveLocation={directory}/state
SlurmctldPidFile={directory}/slurmctld.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdPidFile={directory}/%n.pid
SlurmdLogFile={directory}/%n.log
SlurmdSpoolDir={directory}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=10
MinJobAge=300
MaxArraySize={max_array}
NodeName=n1 NodeHostname={host} Port={n1} CPUs=1 RealMemory=6000
NodeName=n2 NodeHostname={host} Port={n2} CPUs=1 RealMemory=6000
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=60 State=UP
"""
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # Ray's 15 would leave a busy machine's tests waiting
}
MAX_ARRAY = 4  # of the test's Slurm, so that a sweep of 12 needs several cells a job


def find_free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.1)


def list_descendants(root: int) -> list[int]:
    """A process and all that it has started, children before parents' later ones."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def kill_tree(root: int) -> None:
    """Kill a process and all that it has started, at once and without warning."""
    processes = list_descendants(root)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


class Slurm:
    """A controller and two nodes of one core each, without accounting; needs root."""

    nodes = ("n1", "n2")

    def __init__(self, directory: Path, max_array: int = MAX_ARRAY) -> None:
        self.directory = directory
        self.variables = {"SLURM_CONF": str(directory / "slurm.conf")}
        ports = {name: find_free_port() for name in ("port", *self.nodes)}
        text = SLURM_CONF.format(
            host=socket.gethostname().partition(".")[0], directory=directory, max_array=max_array, **ports
        )
        directory.mkdir(parents=True)
        (directory / "state").mkdir()
        (directory / "slurm.conf").write_text(text)
        (directory / "munge.key").write_bytes(os.urandom(1024))
        (directory / "munge.key").chmod(0o600)
        directory.chmod(0o755)

    def start(self) -> None:
        parts = {
            f"--{name}-file": f"munge.{suffix}" for name, suffix in (("log", "log"), ("pid", "pid"), ("seed", "seed"))
        }
        parts |= {"--key-file": "munge.key", "--socket": "munge.socket"}
        self._run("munged", "--force", *(f"{flag}={self.directory / name}" for flag, name in parts.items()))
        wait_until(lambda: (self.directory / "munge.socket").exists(), "munged")
        self._run("slurmctld", "-c")
        for node in self.nodes:
            self.start_node(node)
        wait_until(
            lambda: self._run("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == "2", "two idle nodes"
        )

    def start_node(self, node: str) -> None:
        (self.directory / node).mkdir(exist_ok=True)
        self._run("slurmd", "-N", node)

    def kill_node(self, node: str) -> None:
        """As if its power went: the daemon of a node, and the jobs that it runs."""
        jobs = self._run("squeue", "-h", "-w", node, "-t", "running", "-o", "%A").split()
        steps = [pid for pid in self._list_steps() if any(f"[{job}." in self._read_command(pid) for job in jobs)]
        for pid in [int((self.directory / f"{node}.pid").read_text()), *steps]:
            kill_tree(pid)

    def hurry(self) -> None:
        """Start at once what the controller holds back: two minutes, where a job's node has died."""
        for job in self._run("squeue", "-h", "-t", "pending", "-o", "%A|%r").split():
            if job.endswith("|BeginTime"):
                self._run("scontrol", "update", f"JobId={job.partition('|')[0]}", "StartTime=now", check=False)

    def list_jobs(self) -> list[str]:
        return self._run("squeue", "-h", "-o", "%i").split()

    def stop(self) -> None:
        for name in ("slurmctld.pid", *(f"{node}.pid" for node in self.nodes)):
            with suppress(OSError, ValueError):
                kill_tree(int((self.directory / name).read_text()))
        for pid in self._list_steps():
            kill_tree(pid)
        with suppress(OSError, ValueError):
            os.kill(int((self.directory / "munge.pid").read_text()), signal.SIGKILL)

    def _list_steps(self) -> list[int]:
        """The processes that look after a running job: slurmstepd: [JOB.STEP]."""
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if self._read_command(pid).startswith("slurmstepd: [")]

    def _read_command(self, pid: int) -> str:
        with suppress(OSError):
            return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode().replace("\0", " ")
        return ""

    def _run(self, command: str, *arguments: str, check: bool = True) -> str:
        environment = os.environ | self.variables
        done = subprocess.run([command, *arguments], env=environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{command} {arguments}: {done.stdout}{done.stderr}")
        return done.stdout


class Ray:
    """A head and another node of one core each; the working directory of both is `directory`."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.address = f"127.0.0.2:{find_free_port()}"
        self._environment = environment | RAY_VARIABLES
        self._processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir(parents=True)

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        self._start_node("--head", "--node-ip-address=127.0.0.2", f"--port={port}", "--include-dashboard=false")
        self.start_node()
        wait_until(lambda: self._count_nodes() == 2, "two nodes of Ray", 180)

    def start_node(self) -> None:
        self._start_node(f"--address={self.address}", "--node-ip-address=127.0.0.3")

    def kill_node(self) -> None:
        """As if the power of the second node went."""
        node = self._processes.pop()
        kill_tree(node.pid)
        node.wait()

    def stop(self) -> None:
        for process in self._processes:
            kill_tree(process.pid)
            process.wait()

    def _start_node(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        settings = {"cwd": self.directory, "env": self._environment, "stdin": subprocess.DEVNULL}
        with open(self.directory / f"node{len(self._processes)}.log", "wb") as log:
            pipes = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
            self._processes.append(subprocess.Popen([*command, *arguments], **pipes, **settings))

    def _count_nodes(self) -> int:
        command = [str(Path(sys.executable).with_name("ray")), "status", f"--address={self.address}"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60)
        return len(re.findall(r"^ 1 node_", done.stdout, re.M))


def find_what_slurm_lacks() -> str | None:
    """Why no Slurm can be started here, or None."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    missing = [command for command in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(command)]
    return f"no {', '.join(missing)} (Debian, Ubuntu: make cluster-packages as root)" if missing else None
