"""What was measured as a page of Markdown."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import median
from typing import Any

import psutil
from driver import CONTESTANTS, Contest
from marks import Mark
from works import Work

from nnexp.tensorflow_start import describe_processor

PACKAGES = ("nnexp", "tensorflow", "keras", "numpy", "torch", "jax", "jaxlib", "scikit-learn")


@dataclass
class Measured:
    """All that `make bench` found out; `loads`: the machine's load averages, a minute each, along the way."""

    works: tuple[Work, ...]
    contest: Contest
    from_nothing: dict[str, list[float]]
    cold: dict[str, dict[str, float]]
    lesson: dict[str, Any]
    memory: list[dict[str, Any]]
    marks: list[Mark]
    loads: list[float]
    seconds: float


def describe_machine(measured: Measured) -> list[str]:
    """Processor, memory, versions, date, and how busy the machine was."""
    memory = psutil.virtual_memory().total / 2**30
    cores = f"{psutil.cpu_count(logical=False)} cores ({len(os.sched_getaffinity(0))} processors to run on)"
    loads = ", ".join(f"{load:.1f}" for load in measured.loads)
    return [
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {measured.seconds / 60:.0f} minutes",
        f"- {describe_processor()[0]}, {cores}, {memory:.0f} GB, {platform.system()}",
        f"- Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        f"- load average before, and after each part: {loads} (1 to 2 is the benchmark itself)",
    ]


def format_table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def list_marks_rows(marks: list[Mark]) -> list[list[str]]:
    """Each mark: what was measured, what was promised, whether it is met."""
    verdicts = {(True, True): "met, and the aim", (True, False): "met", (False, False): "**missed**"}
    return [
        [mark.name, f"{mark.value:.2f}", mark.bound, f"{mark.aim:g}", verdicts[mark.is_met, mark.reaches_aim]]
        for mark in marks
    ]


def list_seconds_rows(measured: Measured) -> list[list[str]]:
    """Seconds an epoch: of everyone, with every number of threads that went through all rounds."""
    contest, rows = measured.contest, []
    for work in measured.works:
        for name in (name for name in CONTESTANTS if contest.takes_part(work.name, name)):
            for threads in contest.list_threads(work.name, name):
                key = (work.name, name, threads)
                values = contest.seconds[key]
                spread = f"{min(values):.3f} to {max(values):.3f}"
                label = f"{'stock fit' if name == 'fit' else name}, {threads} thread{'s' * (threads != '1')}"
                row = [work.name, f"{work.images:,}", label, f"{median(values):.3f}", spread]
                rows.append([*row, f"{median(contest.cores[key]):.1f}", f"{contest.accuracy[key]:.3f}"])
    return rows


def list_ratio_rows(measured: Measured) -> list[list[str]]:
    """How many times faster nnexp is; each side at its best number of threads, if not said otherwise."""
    contest, rows = measured.contest, []
    for work in measured.works:
        one, two = (contest.median(work.name, "nnexp", threads) for threads in ("1", "2"))
        row = [work.name, f"{one:.3f}", f"{two:.3f}"]
        row += [f"{work.operations / contest.rate(threads):.3f}" for threads in ("1", "2")]
        row += [f"{median(contest.scoring[work.name, 'nnexp', threads]):.3f}" for threads in ("1", "2")]
        if contest.takes_part(work.name, "fit"):
            default = contest.median(work.name, "fit", "default")
            row.append(f"{default / one:.1f} ({default / two:.1f})")
        else:
            row.append("")
        for rival in ("fit", "pytorch", "jax", "sklearn"):
            taken = contest.takes_part(work.name, rival)
            row.append(
                f"{contest.median(work.name, rival, contest.best(work.name, rival)) / min(one, two):.1f}"
                if taken
                else ""
            )
        rows.append(row)
    return rows


def list_stage_rows(cold: dict[str, dict[str, float]]) -> list[list[str]]:
    """The stages of a cold run, one row each."""
    return [[stage, *(f"{stages[stage]:.2f}" for stages in cold.values())] for stage in cold["empty cache"]]


def write_page(measured: Measured) -> str:
    """The whole of RESULTS.md."""
    contest, lesson = measured.contest, measured.lesson
    rates = ", ".join(f"{contest.rate(threads) / 1e9:.0f} with {threads}" for threads in ("1", "2"))
    fits = ", ".join(f"{seconds:.1f}" for seconds in lesson["fits"])
    nothing = {name: f"{median(values):.1f}" for name, values in measured.from_nothing.items()}
    seconds_head = ["work", "images", "who", "seconds", "lowest to highest", "cores used", "train accuracy"]
    ratio_head = ["work", "1 thread", "2 threads", "floor, 1 core", "2 cores", "scoring, 1 thread", "2 threads"]
    ratio_head += ["stock fit, default threads: times 1 thread (2)", "stock fit", "PyTorch", "JAX", "scikit-learn"]
    return "\n".join([
        "# How fast", "", "Written by `make bench`; benchmarks/README.md says how it measures.", "",
        *describe_machine(measured), "", "## The marks", "",
        "Ratios of medians, all from one run of the benchmark. `make bench` fails if one is missed.", "",
        *format_table(["work", "measured", "pass", "aim", "verdict"], list_marks_rows(measured.marks)), "",
        "## An epoch", "",
        "Seconds of nnexp's training alone, the least that the matrix products take at the machine's own rate "
        f"(GFLOP/s: {rates} threads), the scoring of all images afterwards, and how many times longer others take.", "",
        *format_table(ratio_head, list_ratio_rows(measured)), "",
        f"Two one-thread processes at once: {median(contest.together):.2f} mlp epochs a second together.", "",
        "## Whole commands", "",
        f"- Five mlp epochs from nothing, nothing compiled before: {nothing['nnexp']} s; JAX: {nothing['jax']} s.",
        f"- The lesson's sweep (3 settings x 5 seeds x 5 epochs), cold, everything included: {lesson['sweep']:.1f} s. "
        f"15 stock fits: {lesson['stock']:.0f} s (scaled up from one of each setting: {fits} s; the start, "
        f"{lesson['start']:.1f} s, counted once; never scored).",
        f"- The same sweep when it is finished: {lesson['again']:.1f} s. A wrong setting: {lesson['wrong']:.1f} s.",
        *(
            f"- {one['runs']} runs in one process, {one['kind']} settings: {one['few']:.0f} MB in the first few, then "
            f"at most {one['most']:.0f} MB, {one['end']:.0f} MB at the end." for one in measured.memory
        ), "",
        "A cold run of the baseline from command to row, in seconds:", "",
        *format_table(["stage", *measured.cold], list_stage_rows(measured.cold)), "",
        "## Everyone", "",
        "Seconds an epoch, and the accuracy on the images trained on after the first one or two: everyone learns.", "",
        *format_table(seconds_head, list_seconds_rows(measured)), "",
    ])  # fmt: skip
