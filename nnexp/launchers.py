"""Sweeps on clusters: Hydra's launchers for Slurm and Ray, and what they need in order not to hang or surprise."""

import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

PLUGINS = {"Slurm": ("slurm", "hydra_submitit_launcher"), "Ray": ("ray", "hydra_ray_launcher")}
"""Of each launcher of this file, by the first word of its class: its extra, and the plugin that the extra installs."""


def find_launcher_problem(target: str) -> str | None:
    """Say why a launcher, named by its class, cannot be used here; loads nothing but what is asked for."""
    for word, (extra, plugin) in PLUGINS.items():
        if target == f"hydra_plugins.nnexp.Nnexp{word}Launcher":
            if find_spec(f"hydra_plugins.{plugin}") is None:
                return f'hydra/launcher={extra}: needs a package that is not installed: pip install "nnexp[{extra}]"'
            if word == "Slurm" and not shutil.which("sbatch"):
                return "hydra/launcher=slurm: expected Slurm's command sbatch, as on a login node; there is none here"
    return None


class ClusterLauncher(Launcher):
    """A launcher whose jobs run elsewhere, several runs each, and die without taking the sweep with them.

    Attributes:
        cells: runs that a job does one after another.
        max_jobs: the most jobs at a time; where there are more runs, a job does more than `cells`.
    """

    cells: int
    max_jobs: int
    _launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hand on what Hydra hands to every launcher."""
        self._launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; returns or raises when all have ended."""
        return self._launcher.launch(job_overrides, initial_job_idx)

    def stop(self) -> None:
        """End the jobs that run and take back those that wait."""


class SlurmLauncher(ClusterLauncher):
    """Array jobs through hydra-submitit-launcher, watched with squeue: sacct needs accounting, which may be off."""

    def __init__(self, cells: int, max_jobs: int, **params: Any) -> None:
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as Submitit

        self.cells, self.max_jobs = cells, max_jobs
        self._folder = Path(params["submitit_folder"])
        self._watcher: Any = None
        self._launcher = Submitit(**params)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; returns or raises when all have ended, also those that died without a word."""
        from submitit.slurm.slurm import SlurmJob

        SlurmJob.watcher = self._watcher = build_queue_watcher()
        returns = super().launch(job_overrides, initial_job_idx)
        self._remove_files()
        return returns

    def _remove_files(self) -> None:
        """Remove what submitit has left of jobs that ended well: four files each."""
        for job in self._watcher.list_jobs():
            for path in self._folder.glob(f"{job}_*"):
                path.unlink(missing_ok=True)
        for path in self._folder.glob(".submission_file_*"):  # links to one of those files
            if not path.exists():
                path.unlink(missing_ok=True)
        with suppress(OSError):  # other jobs have files there
            self._folder.rmdir()

    def stop(self) -> None:
        """Cancel the jobs; each that runs gives its run back."""
        if jobs := self._watcher and self._watcher.list_jobs():
            subprocess.run(["scancel", *jobs], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self._remove_files()


def build_queue_watcher() -> Any:
    """Build what tells submitit whether its jobs go on. A class inside a function, as submitit may not be installed."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class QueueWatcher(SlurmInfoWatcher):  # type: ignore[misc]
        """Takes a job that wrote no result for ended when no job of the sweep is in the queue any more.

        Not before, because the launcher leaves all others alone as soon as one has died.
        """

        def list_jobs(self) -> list[str]:
            """The arrays that were submitted."""
            return sorted({job.partition("_")[0] for job in self._registered})

        def _make_command(self) -> list[str]:
            return ["squeue", "--me", "--noheader", "--format=%F|%r"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            lines = string.decode() if isinstance(string, bytes) else string
            queued = {line.partition("|")[0] for line in lines.splitlines() if "requeued held" not in line}
            state = "RUNNING" if queued.intersection(self.list_jobs()) else "ENDED"
            return {job: {"State": state} for job in self._registered}

    return QueueWatcher(delay_s=20)


class RayLauncher(ClusterLauncher):
    """Jobs through hydra-ray-launcher, on a Ray that is started here or on a cluster's."""

    def __init__(self, cells: int, max_jobs: int, ray: DictConfig) -> None:
        from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher as HydraRayLauncher

        self.cells, self.max_jobs = cells, max_jobs
        self._init: Any = OmegaConf.to_container(ray.init, resolve=True)
        self._cpus = float(ray.remote.num_cpus)
        self._launcher = HydraRayLauncher(ray)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs; raises when one has died, while others may go on."""
        self._start()
        return super().launch(job_overrides, initial_job_idx)

    def _start(self) -> None:
        """Start Ray, or attach to it, before the plugin does, which gives a cluster a setting that Ray refuses there.

        Raises:
            ValueError: where no node has the cores that a job asks for; Ray would wait for one for ever.
        """
        import ray

        if not ray.is_initialized():
            on_terminate = signal.getsignal(signal.SIGTERM)
            ray.init(**self._init)
            signal.signal(signal.SIGTERM, on_terminate)  # Ray has put its own in the place
        largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
        if largest < self._cpus:
            raise ValueError(f"a job needs {self._cpus:g} cores, and no node of Ray has more than {largest:g}")

    def stop(self) -> None:
        """Leave Ray; it ends the jobs of whoever leaves."""
        import ray

        ray.shutdown()


def explain_launcher_error(error: Exception) -> str:
    """The line of a launcher's error that says what is wrong: sbatch's, or the last."""
    lines = [line for line in re.sub(r"\x1b\[[\d;]*m", "", str(error)).splitlines() if line.strip(" -")]
    said = [line for line in lines if re.search(r"\w+: error: ", line)]
    return (said or lines or [type(error).__name__])[-1].strip()
