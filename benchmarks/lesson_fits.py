"""The lesson's three networks by stock `fit`, one after another: python lesson_fits.py STARTED EPOCHS IMAGES

One fit for each setting, as in the lesson: NumPy arrays, TensorFlow's default threads, one call of several epochs, not
even scored afterwards. STARTED is `time.time()` before this process was made. Prints, as JSON, the seconds until the
data were ready (`start`: Python, TensorFlow, data) and those of each fit with the building of its network.
"""

import json
import sys
import time

from contestants import build_stock, load_work, start_stock_tensorflow
from works import Work


def main() -> None:
    """Train the three."""
    started, epochs, images = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    start_stock_tensorflow("default")
    import keras

    dataset = load_work(Work("lesson", images))
    print(json.dumps({"start": time.time() - started, "keras": keras.__version__}), flush=True)
    for settings in ({}, {"dropout": 0.2}, {"l2": 0.01}):
        line = sys.stdin.readline()
        if not line:
            return
        begun = time.perf_counter()
        model = build_stock(Work("lesson", images, **settings))
        history = model.fit(dataset.train_images, dataset.train_labels, batch_size=32, epochs=epochs, verbose=0).history
        answer = {"seconds": time.perf_counter() - begun, "running_accuracy": history["accuracy"][-1]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
