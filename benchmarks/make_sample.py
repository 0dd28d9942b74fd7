"""Makes nnexp/sample.npz, the data of `data=sample`, from the original files: python benchmarks/make_sample.py FOLDER

The sample is the first 2,000 training and the first 1,000 test images in the order of `nnexp.data.draw_order` with seed
0: 200 and 100 of each class, kept in the order of the original files. The training part is so what data=fashion_mnist
data.train_size=2000 trains on. The same originals always give the same arrays, and their SHA-256 is printed, for
`nnexp.config.DATASETS`; the same zlib also gives the same file.
"""

import argparse
from pathlib import Path

import numpy as np

from nnexp.config import DATASETS
from nnexp.data import Arrays, Source, draw_order, hash_arrays, read_folder

SEED = 0


def make_sample(originals: Arrays) -> Arrays:
    """Picks the sample out of the whole data set; uint8 arrays as in `originals`, but fewer."""
    facts = DATASETS["sample"]
    train = np.sort(draw_order(originals.train_labels, SEED)[: facts.train_images])
    test = np.sort(draw_order(originals.test_labels, SEED)[: facts.test_images])
    return Arrays(
        originals.train_images[train], originals.train_labels[train],
        originals.test_images[test], originals.test_labels[test],
    )  # fmt: skip


def main() -> None:
    """Reads the folder of the originals (checked), writes the sample and prints its SHA-256."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder with Fashion-MNIST's four original files")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "nnexp" / "sample.npz")
    arguments = parser.parse_args()
    sample = make_sample(read_folder(Source("data.directory", arguments.folder)))
    np.savez_compressed(arguments.output, **sample._asdict())
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes, SHA-256 of its arrays {hash_arrays(sample)}")


if __name__ == "__main__":
    main()
