"""Keep the weights that the golden runs come to on this machine: `python tests/update_golden.py`.

tests/test_golden.py compares with them. `--print` runs them and prints the answer, keeping nothing.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from nnexp.compose import Composer, build_config_loader
from nnexp.config import TRAINING_VERSION
from nnexp.experiment import run_once
from nnexp.provenance import read_provenance

GOLDEN = Path(__file__).with_name("golden.json")
COMMON = ("data=sample", "data.train_size=300", "epochs=2", "threads=1")
RUNS = {
    "linear": ("model=linear", "optimizer=sgd"),
    "mlp, dropout": ("model=mlp", "dropout=0.2"),
    "deep, L2": ("model=deep", "l2=0.001", "optimizer=rmsprop"),
    "cnn, dropout": ("model=cnn", "dropout=0.3", "data.validation_size=100", "early_stopping=1"),
    "mlp, dropout, L2, keras": ("model=mlp", "dropout=0.2", "l2=0.001", "optimizer=adamw", "engine=keras"),
    "cnn, keras": ("model=cnn", "optimizer=sgd", "optimizer.momentum=0.9", "engine=keras"),
}
SCORES = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")


def main() -> None:
    """Run all and keep, or print, what they come to."""
    answer = run_all()
    if "--print" in sys.argv[1:]:
        print(json.dumps(answer))
        return
    golden = read_golden()
    known = golden["weights"].get(answer["key"], answer["weights"])
    changed = [name for name in RUNS if known.get(name) != answer["weights"][name]]
    if changed and golden["training_version"] == TRAINING_VERSION:
        print(
            f"The weights of {'; '.join(changed)} have changed and TRAINING_VERSION is {TRAINING_VERSION} as before: "
            "raise it in nnexp/config.py, unless no nnexp with it has been released."
        )
    if changed or golden["training_version"] != TRAINING_VERSION:
        golden["weights"] = {}  # of other machines: made by another training code
    golden |= {"training_version": TRAINING_VERSION, "scores": answer["scores"]}
    golden["weights"][answer["key"]] = answer["weights"]
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(f"{GOLDEN} has the weights for {answer['key']}")


def read_golden() -> dict[str, Any]:
    """What is kept: `weights` by machine and run, `scores` by run, of `training_version`."""
    if not GOLDEN.exists():
        return {"training_version": TRAINING_VERSION, "scores": {}, "weights": {}}
    return dict(json.loads(GOLDEN.read_bytes()))


def name_machine() -> str:
    """What the bits depend on beside the code: TensorFlow, Keras, the processor and its instruction set."""
    facts = read_provenance()
    return f"tensorflow {facts['tensorflow']}, keras {facts['keras']}, processor {facts['processor_sha256'][:16]}"


def run_all() -> dict[str, Any]:
    """Run the golden runs in this process: the machine's name, weights and scores by run."""
    composer = Composer(build_config_loader(None))
    weights, scores = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        for name, overrides in RUNS.items():
            config = composer.compose(composer.parse([*COMMON, *overrides, f"outputs={directory}"]))
            record, _ = run_once(config, "", lambda epoch, accuracy: None)
            if record is None or record["error"]:
                sys.exit(f"{name}: expected a finished run; received {record and record['error']}")
            weights[name] = record["provenance"]["weights_sha256"]
            scores[name] = {score: record["scores"][score] for score in SCORES}
    return {"key": name_machine(), "weights": weights, "scores": scores}


if __name__ == "__main__":
    main()
