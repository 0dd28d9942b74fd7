"""Run a recorded run again and say whether it came out the same: `nnexp-results reproduce`.

The runs take the route of every run, in a fresh process and a scratch directory; what is compared are two records.
"""

import csv
import dataclasses
import io
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnexp.config import Config, DataConfig, ModelConfig, OptimizerConfig, hash_identity
from nnexp.ledger import Ledger, Record
from nnexp.provenance import list_packages
from nnexp.training_process import TrainingProcess

BIT_IDENTICAL, WITHIN_TOLERANCE = "bit-identical", "equal within tolerance"
ALTERED, DIFFERENT, NOT_RUN = "altered", "different", "not run again"
GOOD = (BIT_IDENTICAL, WITHIN_TOLERANCE)

NO_PROMISE = ("train_seconds", "seconds")  # scores that are another number each time
WORLD = {
    "nnexp": "nnexp",
    "training_version": "version of the training code",
    "source_sha256": "SHA-256 of nnexp's source",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "numpy": "numpy",
    "python": "Python",
    "processor": "processor",
    "processor_features": "its instruction set",
    "processor_sha256": "SHA-256 of processor and instruction set",
    "variables": "environment variables",
}
"""What a record must share with this process to be the same code, versions and processor; and how it is called."""
CODE = ("nnexp", "source_sha256")  # of WORLD: may change, but not the numbers, unless `training_version` is raised

TOLERANCE, TOLERANCE_STEPS = 0.01, 1.5
"""See `find_tolerance`: measured by benchmarks/reproducible.py, in docs/reproducible.md."""
SAME_WEIGHTS_LOSS = 1e-5  # another version may add up the losses of 60,000 images in another order, and no more
MAX_PACKAGES = 20  # named one by one; of more only the number is said


@dataclass
class Outcome:
    """What running a record again came to.

    Attributes:
        verdict: one of the five above.
        reasons: what came out otherwise than recorded, a line each.
        differences: between the record's world and this one, a line each.
    """

    verdict: str
    reasons: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether the record stands."""
        return self.verdict in GOOD


def format_outcome(record: Record, outcome: Outcome) -> str:
    """A line for a run, and indented below it why and what differs."""
    lines = [f"{record['run_id']}  {outcome.verdict}", *(f"  {reason}" for reason in outcome.reasons)]
    return "\n".join([*lines, *(f"  differs: {difference}" for difference in outcome.differences)])


# --- running again ----------------------------------------------------------------------------------------------------


def reproduce(ledger: Ledger, records: Sequence[Record]) -> Iterator[tuple[Record, Outcome]]:
    """Run each record again and compare, yielding each as it is done; nothing is written to the ledger."""
    with tempfile.TemporaryDirectory(prefix="nnexp-reproduce-") as directory:
        scratch = Ledger(directory)
        runnable: dict[int, list[Record]] = {}  # by threads: TensorFlow fixes them once a process
        for record in records:
            if record["status"] == "finished":
                runnable.setdefault(record["settings"]["threads"], []).append(record)
            else:
                yield record, Outcome(NOT_RUN, [f"the record is of a run that failed: {record['error']}"])
        for group in runnable.values():
            for record, run_id, problem in run_again(group, Path(directory)):
                again = scratch.read_record(run_id)
                yield record, compare_runs(ledger, record, scratch, again) if again else Outcome(NOT_RUN, [problem])


def run_again(records: Sequence[Record], directory: Path) -> Iterator[tuple[Record, str, str]]:
    """Run records of equal `threads` in a fresh process.

    Yields:
        the record, its run_id in `directory` ("" where there is none), and what went wrong.
    """
    from nnexp.experiment import run_once

    training = TrainingProcess()
    try:
        for record in records:
            try:
                config = restore_config(record["settings"], directory)
                again, _ = run_once(config, "", lambda epoch, accuracy: None, training.attempt)
                yield record, config.run_id, (again or {}).get("error", "")
            except (ValueError, OSError) as error:  # is told, and the next one gets its turn
                yield record, "", f"{type(error).__name__}: {error}"
    finally:
        training.stop()


def restore_config(settings: dict[str, Any], outputs: Path) -> Config:
    """The settings of a record as a Config that writes to `outputs`.

    A folder of data that is no longer there is looked for in the usual places: the data set is known by its hash.

    Raises:
        ValueError: where this nnexp has other settings, or other ranges of them.
    """
    data = dict(settings["data"])
    if data["directory"] is not None and not Path(data["directory"]).is_dir():
        data["directory"] = None
    known = {spec.name for spec in dataclasses.fields(Config)}
    try:
        return Config(
            **{key: value for key, value in settings.items() if key not in ("model", "optimizer", "data")}
            | {"xla": str(settings["xla"]).lower(), "save_model": False, "outputs": str(outputs)}
            | dict.fromkeys(("force", "dry_run", "fail_fast"), False),
            model=ModelConfig(**settings["model"]),
            optimizer=OptimizerConfig(**settings["optimizer"]),
            data=DataConfig(**data),
        )
    except TypeError as error:
        raise ValueError(
            f"expected the settings {', '.join(sorted(known))}; received those of another nnexp ({error}). "
            "Install the nnexp that the record names"
        ) from error


# --- comparing --------------------------------------------------------------------------------------------------------


def compare_runs(ledger: Ledger, record: Record, scratch: Ledger, again: Record) -> Outcome:
    """Judge a record by a second run of it."""
    if again["status"] != "finished":
        return Outcome(NOT_RUN, [again["error"]])
    then, now = record["provenance"], again["provenance"]
    world = compare_worlds(then, now)
    verdict, reasons = _judge(ledger, record, again)
    if verdict == BIT_IDENTICAL and not world:
        reasons = compare_files(ledger.runs / record["run_id"], scratch.runs / again["run_id"])
        verdict = ALTERED if reasons else BIT_IDENTICAL
    if world or verdict not in GOOD:
        world += compare_surroundings(ledger, then, now)
    return Outcome(verdict, reasons, world)


def _judge(ledger: Ledger, record: Record, again: Record) -> tuple[str, list[str]]:
    """The verdict on weights and scores, and its reasons."""
    if problem := find_altered_settings(record):
        return ALTERED, [problem]
    then, now = record["provenance"], again["provenance"]
    changes = list_changes(record["scores"], again["scores"])
    same_weights = then.get("weights_sha256") == now["weights_sha256"]
    if same_weights and not changes:
        return BIT_IDENTICAL, []
    reasons = [f"{name}: {_say(old)} recorded, {_say(new)} now" for name, old, new in changes]
    if are_same_bits_promised(then, now):
        return (ALTERED, reasons) if same_weights else (DIFFERENT, [_say_weights(then, now, reasons), *reasons])
    tolerances = find_tolerances(ledger, record, same_weights)
    bounds = [tolerances.get(name, math.inf) for name, *_ in changes]
    reasons = [f"{reason} (tolerance {bound:.2g})" for reason, bound in zip(reasons, bounds, strict=True)]
    if all(_is_within(old, new, bound) for (_, old, new), bound in zip(changes, bounds, strict=True)):
        return WITHIN_TOLERANCE, reasons
    return ALTERED if same_weights else DIFFERENT, reasons


def are_same_bits_promised(then: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether these are the same versions and processor, and code that says that it computes the same."""
    return all(then.get(key) == now[key] for key in WORLD if key not in CODE)


def _say_weights(then: dict[str, Any], now: dict[str, Any], reasons: list[str]) -> str:
    if then.get("source_sha256") != now["source_sha256"]:
        return (
            "the weights are others: the code has changed what it computes. If that is wanted, raise TRAINING_VERSION "
            "(nnexp/config.py), so that old and new runs are told apart"
        )
    remark = "; every score is as recorded, so that the recorded hash may have been altered"
    return "the weights are others" + ("" if reasons else remark)


def find_altered_settings(record: Record) -> str:
    """Say so if the settings of a record are not those that its identity was made from."""
    provenance = record["provenance"]
    if not {"training_version", "data_sha256"} <= provenance.keys():
        return ""
    identity = restore_config(record["settings"], Path(tempfile.gettempdir())).identity
    identity |= {key: provenance[key] for key in ("training_version", "data_sha256")}
    if hash_identity(identity) == record["identity_sha256"]:
        return ""
    return "the settings, or the identity, in the record are not those that it was written with"


def list_changes(then: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, recorded, now) of every score that is not exactly the same; None where there is none."""
    names = [name for name in {**then, **now} if name not in NO_PROMISE]
    return [(name, then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)]


def compare_files(then: Path, now: Path) -> list[str]:
    """Say which of the files beside a record do not hold the same numbers."""
    problems = []
    for name, read in (("history.csv", _read_history), ("predictions.npz", _read_predictions)):
        try:
            if read(then / name) != read(now / name):
                problems.append(f"{name}: other numbers than now")
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{name}: cannot be read ({error})")
    return problems


def find_tolerances(ledger: Ledger, record: Record, same_weights: bool) -> dict[str, float]:
    """How far each score may be from the recorded one where the same bits are not promised.

    Another processor or version adds up in another order. The rounding of that is as small as 1e-8 until training
    amplifies it, to what one more epoch changes. So: 0.01 + 1.5 * the largest change of the score from one epoch to the
    next in the second half of training (at least the last two steps, at most ten), which held for every score of
    every pair of runs with and without XLA, and on 1 and 2 threads, that docs/reproducible.md shows. Equal weights
    leave no such room: each image is predicted as before, and a loss moves by its rounding.
    """
    names = [f"{split}_{kind}" for split in ("train", "test", "validation") for kind in ("accuracy", "loss")]
    exact = {"parameters": 0.0, "accuracy_gap": 0.0}
    if same_weights:
        return exact | {name: SAME_WEIGHTS_LOSS if name.endswith("loss") else 0.0 for name in names}
    try:
        history = _read_history(ledger.runs / record["run_id"] / "history.csv")
    except (OSError, ValueError):
        history = []
    window = max(2, min(10, len(history) // 2))
    tolerances = {}
    for name in names:
        values = [float(row[name]) for row in history if row.get(name)]
        steps = [abs(new - old) for old, new in itertools.pairwise(values)][-window:]
        tolerances[name] = TOLERANCE + TOLERANCE_STEPS * max(steps, default=0.0)
    return exact | tolerances | {"accuracy_gap": tolerances["train_accuracy"] + tolerances["test_accuracy"]}


def _is_within(old: Any, new: Any, tolerance: float) -> bool:
    return old is not None and new is not None and abs(new - old) <= tolerance


def compare_worlds(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say what of WORLD is another than in the record."""
    differences = []
    for key, name in WORLD.items():
        if then.get(key) != now[key]:
            differences.append(f"{name}: {_say(then.get(key))} then, {_say(now[key])} now")
    if then.get("training_version") != now["training_version"]:
        differences.append("the training code's numbers have changed on purpose since: CHANGELOG.md says how")
    return differences


def compare_surroundings(ledger: Ledger, then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Say what else is another than in the record: git state, the other packages, cores."""
    differences = []
    if (old := _say_git(then)) != (new := _say_git(now)):
        differences.append(f"git: {old} then, {new} now")
    for key, name in (("platform", "system"), ("cores", "cores")):
        if then.get(key) != now[key]:
            differences.append(f"{name}: {_say(then.get(key))} then, {_say(now[key])} now")
    if then.get("environment_sha256") != now["environment_sha256"]:
        differences += _compare_packages(ledger.outputs / "environments" / f"{then.get('environment_sha256')}.txt")
    return differences


def _compare_packages(path: Path) -> list[str]:
    try:
        lists = path.read_text(encoding="utf-8"), list_packages()
    except OSError:
        return [f"packages: not all the same, but which cannot be told without {path}"]
    then, now = (dict(line.split("==", 1) for line in text.splitlines()) for text in lists)
    names = [name for name in sorted({**then, **now}, key=str.lower) if then.get(name) != now.get(name)]
    names = [name for name in names if name not in WORLD]
    if len(names) > MAX_PACKAGES:
        return [f"packages: {len(names)} others are not the same; {path} is the list of then"]
    return [f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now" for name in names]


def _say_git(provenance: dict[str, Any]) -> str:
    lines = provenance.get("git_changed_lines")
    changed = f" with {lines} changed lines" if lines else ""
    files = provenance.get("git_new_files")
    return f"{provenance.get('git_commit', 'not recorded')[:12]}{changed}" + (
        f" and {files} new files" if files else ""
    )


def _say(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)  # 64: a SHA-256


def _read_history(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _read_predictions(path: Path) -> dict[str, bytes]:
    import numpy as np

    with np.load(io.BytesIO(path.read_bytes())) as arrays:
        return {name: f"{arrays[name].dtype} ".encode() + arrays[name].tobytes() for name in arrays}
