"""Whether the compiled engine trains networks as good as stock `fit` does: python benchmarks/equivalence.py [--quick]

Runs the lesson's three settings with both engines and ten seeds through nnexp itself, into a directory of its own: when
it is stopped, the same command goes on where it was. For train and for test accuracy the 90 % interval of the engines'
difference (Student's t over seeds, paired: both engines start a seed from the same weights and see the images in the
same order) has to lie within the margin: two one-sided tests at 5 % each (Schuirmann 1987). Writes EQUIVALENCE.md; ends
with 1 if one does not.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from nnexp.tensorflow_start import describe_processor

HERE = Path(__file__).parent
OUTPUTS = HERE.parent / ".bench" / "equivalence"  # kept, so that it can be gone on with; not in git
SEEDS = 10
MARGINS = {"baseline": 0.5, "dropout": 0.5, "l2": 1.5}  # points of accuracy; L2 varies three times as much over seeds
CONFIDENCE = 0.90


@dataclass(frozen=True)
class Difference:
    """compiled - keras, in points: of one accuracy in one setting, over `seeds` seeds."""

    setting: str
    score: str
    compiled: float
    keras: float
    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_within(self) -> bool:
        """Whether the whole interval lies within the margin."""
        return -MARGINS[self.setting] < self.low and self.high < MARGINS[self.setting]


def main() -> None:
    """Run what is missing, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="try it: the sample, one epoch, three seeds")
    quick = parser.parse_args().quick
    outputs = OUTPUTS.with_name("equivalence-quick") if quick else OUTPUTS
    run_sweep(outputs, 3 if quick else SEEDS, ["data=sample", "epochs=1"] if quick else [])
    table = pd.read_csv(outputs / "results.csv")
    differences = [compare(table, name, score) for name in MARGINS for score in ("train_accuracy", "test_accuracy")]
    page = write_page(table, differences)
    print("\n" + page)
    if quick:
        print("A trial: nothing was written, and the verdicts mean nothing.")
        return
    (HERE / "EQUIVALENCE.md").write_text(page, encoding="utf-8")
    sys.exit(not all(difference.is_within for difference in differences))


def run_sweep(outputs: Path, seeds: int, more: list[str]) -> None:
    """Run the grid with nnexp; exits if a run failed."""
    grid = [f"experiment={','.join(MARGINS)}", f"seed=range({seeds})", "engine=compiled,keras", *more]
    command = [sys.executable, "-m", "nnexp", "-m", *grid, "hydra/launcher=local", f"outputs={outputs}"]
    if subprocess.run(command).returncode:
        sys.exit("not every run finished; type the same command to go on")


def compare(table: pd.DataFrame, setting: str, score: str) -> Difference:
    """The engines' difference in one setting, seed by seed."""
    rows = table[(table["dropout"] > 0) == (setting == "dropout")]
    rows = rows[(rows["l2"] > 0) == (setting == "l2")]
    points = 100 * rows.pivot(index="seed", columns="engine", values=score)
    values = (points["compiled"] - points["keras"]).to_numpy()
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * error
    mean = float(values.mean())
    means = float(points["compiled"].mean()), float(points["keras"].mean())
    return Difference(setting, score, *means, mean, mean - half, mean + half, len(values))


def write_page(table: pd.DataFrame, differences: list[Difference]) -> str:
    """The whole of EQUIVALENCE.md."""
    first = table.iloc[0]
    lines = [
        "# The same training",
        "",
        "Written by `make bench-equivalence`: the lesson's three settings, by either engine from the same seeds.",
        "Accuracy in percent; compiled - keras in points, with its 90 % interval (Student's t over seeds, paired).",
        "",
        f"- {table['started_at'].max()[:10]}, {describe_processor()[0]}, tensorflow {first['tensorflow']}, "
        f"keras {first['keras']}, nnexp {first['nnexp']} ({first['git_commit']})",
        f"- {first['epochs']} epochs, {first['train_size']:,} images, {first['threads']} thread a run",
        "",
        "| setting | accuracy | seeds | compiled | keras | difference | 90 % interval | margin | equivalent |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in differences:
        interval = f"{one.low:+.2f} to {one.high:+.2f}"
        row = [one.setting, one.score.removesuffix("_accuracy"), str(one.seeds), f"{one.compiled:.2f}"]
        row += [f"{one.keras:.2f}", f"{one.mean:+.2f}", interval, f"{MARGINS[one.setting]:g}"]
        lines.append("| " + " | ".join([*row, "yes" if one.is_within else "**no**"]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
