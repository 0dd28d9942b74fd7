"""Hydra instantiates only plugins of the namespace package hydra_plugins; installed as hydra_plugins.nnexp."""

from nnexp.launchers import RayLauncher, SlurmLauncher
from nnexp.search import SearchSweeper
from nnexp.sweeper import GridSweeper


class NnexpSweeper(GridSweeper):
    """nnexp's sweeper, under the name by which Hydra finds it."""


class NnexpSearchSweeper(SearchSweeper):
    """What hydra/sweeper=optuna is, under the name by which Hydra finds it."""


class NnexpSlurmLauncher(SlurmLauncher):
    """nnexp's launcher for Slurm."""


class NnexpRayLauncher(RayLauncher):
    """nnexp's launcher for Ray."""
