"""The promises of a single run, from Python."""

import numpy as np
import pytest

import nnexp
from nnexp.compose import Composer, build_config_loader
from nnexp.data import load_data
from nnexp.experiment import run_once

SMALL = ["data=sample", "data.train_size=200", "epochs=1", "model.units=[8]"]


def run(tmp_path, *settings):
    composer = Composer(build_config_loader(None))
    config = composer.compose(composer.parse([*SMALL, f"outputs={tmp_path}", *settings]))
    record, is_new = run_once(config, "nnexp", lambda epoch, accuracy: None)
    return config, record, is_new


def test_a_saved_model_predicts_what_is_recorded(tmp_path):
    config, record, _ = run(tmp_path, "save_model=true")
    model = nnexp.load_model(record["run_id"], outputs=tmp_path)
    dataset = load_data(config.data)
    predicted = np.argmax(model.predict(dataset.test_images, verbose=0), axis=1)
    assert np.mean(predicted == dataset.test_labels) == pytest.approx(record["scores"]["test_accuracy"])


def test_a_finished_run_without_a_model_is_trained_again_for_it_and_comes_to_the_same_weights(tmp_path):
    _, first, _ = run(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no saved model; run its command again with save_model=true"):
        nnexp.load_model(first["run_id"], outputs=tmp_path)
    _, again, is_new = run(tmp_path, "save_model=true")
    assert is_new
    assert again["provenance"]["weights_sha256"] == first["provenance"]["weights_sha256"]
    nnexp.load_model(first["run_id"], outputs=tmp_path)


def test_to_load_the_model_of_no_run_says_where_runs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no such run in .*; results.csv there names the runs"):
        nnexp.load_model("mlp-adam-e5-s0-00000000", outputs=tmp_path)
