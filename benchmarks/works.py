"""What is measured: the networks, their images, and how many operations an epoch of each must take.

Light to import: the driver and every contestant's process read it.
"""

from dataclasses import dataclass, replace

PIXELS, SIDE, CLASSES = 784, 28, 10
LEARNING_RATE = 1e-3  # Adam's, everywhere; the other numbers are each library's own default


@dataclass(frozen=True)
class Work:
    """An epoch to train: a network, its penalties, and how many of Fashion-MNIST's training images.

    `only` names the contestants that take part; a rival without dropout or convolutions is left out.
    """

    name: str
    images: int
    filters: tuple[int, ...] = ()
    units: tuple[int, ...] = (128,)
    dropout: float = 0.0
    l2: float = 0.0
    batch_size: int = 32
    only: tuple[str, ...] = ("nnexp", "fit", "pytorch", "jax", "sklearn")

    @property
    def overrides(self) -> list[str]:
        """The same as words of nnexp's command line."""
        words = [f"model.filters={list(self.filters)}", f"model.units={list(self.units)}", f"dropout={self.dropout}"]
        words += [f"l2={self.l2}", f"batch_size={self.batch_size}", f"data.train_size={self.images}"]
        return [*words, f"optimizer.learning_rate={LEARNING_RATE}"]

    @property
    def operations(self) -> int:
        """Floating-point operations of an epoch's matrix products, and of nothing else.

        A product of [a, b] with [b, c] takes 2abc. Every layer multiplies for its outputs and for its kernel's
        gradient; all but the first for the gradient of their inputs too.
        """
        products, side, channels = [], SIDE, 1
        for filters in self.filters:
            products.append(side * side * 9 * channels * filters)
            side, channels = side // 2, filters
        width = side * side * channels
        for units in (*self.units, CLASSES):
            products.append(width * units)
            width = units
        return 2 * self.images * (3 * sum(products) - products[0])


NO_SKLEARN = ("nnexp", "fit", "pytorch", "jax")
WORKS = (
    Work("mlp", 60_000),
    Work("mlp, dropout 0.2", 60_000, dropout=0.2, only=("nnexp",)),
    Work("mlp, L2 0.01", 60_000, l2=0.01, only=("nnexp",)),
    Work("mlp, dropout 0.2, fewer images", 12_800, dropout=0.2, only=NO_SKLEARN),
    Work("mlp, L2 0.01, fewer images", 12_800, l2=0.01),
    Work("mlp, batch 128", 60_000, batch_size=128),
    Work("wide", 4_800, units=(1024, 1024)),
    Work("cnn", 4_800, filters=(32, 64), only=NO_SKLEARN),
)


def list_works(quick: bool) -> tuple[Work, ...]:
    """The works; `quick` keeps every shape but takes a tenth of the images, to try the benchmark itself."""
    return tuple(replace(work, images=work.images // 10) for work in WORKS) if quick else WORKS
