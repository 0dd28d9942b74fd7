"""Hydra instantiates only plugins of the namespace package hydra_plugins; installed as hydra_plugins.nnexp."""

from nnexp.sweeper import GridSweeper


class NnexpSweeper(GridSweeper):
    """nnexp's sweeper, under the name by which Hydra finds it."""
