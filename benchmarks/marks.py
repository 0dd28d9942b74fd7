"""The marks: what is promised of the speed, against what was measured."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from driver import Contest
from works import Work


@dataclass(frozen=True)
class Mark:
    """A promise: `value` has to be at least `least` (or, if `most` is given, at most that); `aim` is the hope."""

    name: str
    value: float
    aim: float
    least: float | None = None
    most: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the pass mark is met."""
        return self.value >= self.least if self.least is not None else self.value <= (self.most or 0)

    @property
    def reaches_aim(self) -> bool:
        """Whether it is as good as hoped."""
        return self.value >= self.aim if self.least is not None else self.value <= self.aim

    @property
    def bound(self) -> str:
        """The pass mark in words."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


def list_marks(
    contest: Contest, works: tuple[Work, ...], from_nothing: dict[str, Any], lesson: Any, memory: Any
) -> list[Mark]:
    """Every mark with what was measured for it: of the contest, then of whole commands."""
    sweep = Mark("the lesson's sweep, cold, against 15 stock fits", lesson["stock"] / lesson["sweep"], 25, least=10)
    ratio = median(from_nothing["jax"]) / median(from_nothing["nnexp"])
    nothing = Mark("five epochs from nothing, against JAX", ratio, 2, least=1.5)
    growth = [
        Mark(f"memory after {one['runs']} runs, {one['kind']} settings: MB above the first few",
             one["most"] - one["few"], 50, most=100)
        for one in memory
    ]  # fmt: skip
    return [*list_epoch_marks(contest, works), nothing, sweep, *growth]


def list_epoch_marks(contest: Contest, works: tuple[Work, ...]) -> list[Mark]:
    """The marks of single epochs. Where no thread count is named, both sides have the one that suits them best."""

    def faster(work: str, rival: str, ours: str | None = None, theirs: str | None = None) -> float:
        """How many times faster nnexp is."""
        seconds = contest.median(work, rival, theirs or contest.best(work, rival))
        return seconds / contest.median(work, "nnexp", ours or contest.best(work, "nnexp"))

    def times_plain(work: str) -> float:
        return contest.median(work, "nnexp", "1") / contest.median("mlp", "nnexp", "1")

    floor = works[0].operations / contest.rate("2")
    return [
        Mark("mlp, 1 thread, against stock fit at default threads", faster("mlp", "fit", "1", "default"), 15, least=10),
        Mark("mlp, 1 thread, against stock fit at its best", faster("mlp", "fit", "1"), 10, least=6.5),
        Mark(
            "mlp, 2 threads, against stock fit at default threads", faster("mlp", "fit", "2", "default"), 24, least=14
        ),
        Mark("mlp with dropout 0.2: times the plain epoch", times_plain("mlp, dropout 0.2"), 1.05, most=1.2),
        Mark("mlp with L2 0.01: times the plain epoch", times_plain("mlp, L2 0.01"), 1.05, most=1.2),
        Mark("mlp against PyTorch", faster("mlp", "pytorch"), 5, least=3),
        Mark("mlp against scikit-learn", faster("mlp", "sklearn"), 6, least=4),
        Mark("mlp against JAX, warm", faster("mlp", "jax"), 1.3, least=0.9),
        Mark("mlp, batch 128, against stock fit at its best", faster("mlp, batch 128", "fit"), 8, least=5),
        Mark("wide against stock fit at its best", faster("wide", "fit"), 4, least=2.5),
        Mark("cnn against stock fit at its best", faster("cnn", "fit"), 2.5, least=1.5),
        Mark("cnn against PyTorch", faster("cnn", "pytorch"), 1.5, least=1),
        Mark("two one-thread processes, share of two cores' floor", median(contest.together) * floor, 0.6, least=0.45),
    ]
