"""A few of the trials of `make chaos`, with real training."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

chaos = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "chaos.py")))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", "")  # what is set below ends with these tests
        chaos.make_starts_cheap(tmp_path_factory.mktemp("chaos") / "start")
        yield chaos.run_reference(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_killed_at_random_moments_is_finished_by_typing_it_again(
    seed: int, reference: dict[str, str], tmp_path: Path
) -> None:
    assert chaos.run_trial(tmp_path, reference, seed, longest=12).problems == []


def test_a_torn_row_would_be_seen(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("run_id,status,error\na,finished,\nb,fin")
    assert [problem.split(":")[0] for problem in chaos.read_strictly(table)] == [
        "results.csv has a torn row",
        "results.csv has a strange status",
    ]
