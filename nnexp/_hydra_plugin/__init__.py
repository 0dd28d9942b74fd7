"""Hydra instantiates only plugins of the namespace package hydra_plugins; installed as hydra_plugins.nnexp."""

from nnexp.search import SearchSweeper
from nnexp.sweeper import GridSweeper


class NnexpSweeper(GridSweeper):
    """nnexp's sweeper, under the name by which Hydra finds it."""


class NnexpSearchSweeper(SearchSweeper):
    """What hydra/sweeper=optuna is, under the name by which Hydra finds it."""
