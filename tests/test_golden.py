"""A change of the code that changes numbers cannot slip through: six small runs come to the weights that are kept."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from update_golden import RUNS, SCORES, name_machine, read_golden

from nnexp.config import TRAINING_VERSION

SCRIPT = Path(__file__).with_name("update_golden.py")
TOLERANCE = (
    0.01  # of every score, where the sums are taken in another order: two epochs amplify rounding to 1e-3 at most
)
WHAT_TO_DO = (
    "The numbers of a run have changed. If that is not wanted, undo it. If it is: raise TRAINING_VERSION in "
    "nnexp/config.py, so that old and new runs are told apart; say in CHANGELOG.md what has changed; then run "
    "`python tests/update_golden.py`."
)


@pytest.fixture(scope="module")
def came_out() -> dict[str, Any]:
    """What the runs come to now, in a process of their own, because TensorFlow fixes its threads once."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "XLA_", "ONEDNN_"))}
    done = subprocess.run([sys.executable, str(SCRIPT), "--print"], capture_output=True, text=True, env=plain)
    assert not done.returncode, done.stderr
    return dict(json.loads(done.stdout))


def test_the_weights_are_those_of_the_training_version() -> None:
    kept = read_golden()["training_version"]
    assert kept == TRAINING_VERSION, f"golden.json is of training version {kept}: run `python tests/update_golden.py`."


@pytest.mark.parametrize("name", RUNS)
def test_a_run_comes_to_the_weights_that_are_kept(name: str, came_out: dict[str, Any]) -> None:
    golden = read_golden()["weights"].get(name_machine())
    if golden is None:
        pytest.skip(f"no golden weights for {name_machine()}; the scores are compared instead")
    assert came_out["weights"][name] == golden[name], WHAT_TO_DO


@pytest.mark.parametrize("name", RUNS)
def test_a_run_comes_to_the_scores_that_are_kept_on_any_processor(name: str, came_out: dict[str, Any]) -> None:
    golden = read_golden()["scores"][name]
    far = {s: (golden[s], came_out["scores"][name][s]) for s in SCORES}
    assert all(abs(kept - now) <= TOLERANCE for kept, now in far.values()), f"{far}: kept, now. {WHAT_TO_DO}"
