"""The runs of an outputs directory in MLflow: each one once. Needs the extra `mlflow`."""

import os
from datetime import datetime
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from nnexp.config import format_value
from nnexp.experiment import MODEL_FILE
from nnexp.ledger import Ledger, Record, flatten
from nnexp.report import read_history

EXPERIMENT = "nnexp"
BATCH = 1000  # metrics that MLflow takes at once
LONGEST = 5000  # characters of a setting or tag; MLflow takes at most 6,000


class ExportError(OSError):
    """MLflow's store or server did not take the runs; the message is its own."""


def export_mlflow(ledger: Ledger, tracking_uri: str = "") -> dict[str, int]:
    """Write every run that MLflow does not have yet: settings, scores, curves by epoch, the saved model.

    A run is found again by its tag `run_id`; one that has been recorded anew since takes its old one's place, and one
    whose export was cut off is written again. tracking_uri: "" is MLflow's own choice, MLFLOW_TRACKING_URI first.

    Returns:
        how many runs were `added`, `replaced`, and there `already`.

    Raises:
        ExportError: where the tracking store or server does not take a run; a second call goes on from there.
    """
    try:
        return _export(MlflowClient(tracking_uri or None), ledger)
    except (MlflowException, OSError) as error:
        raise ExportError(str(error)) from error


def _export(client: MlflowClient, ledger: Ledger) -> dict[str, int]:
    experiment = _find_experiment(client)
    known = _list_exported(client, experiment)
    counts = {"added": 0, "replaced": 0, "already": 0}
    for record in ledger.read_records():
        old = known.get(record["run_id"])
        if old and old.info.status != "RUNNING" and old.data.tags.get("finished_at") == record["finished_at"]:
            counts["already"] += 1
            continue
        if old:
            client.delete_run(old.info.run_id)
        _write_run(client, experiment, ledger, record)
        counts["replaced" if old else "added"] += 1
    return counts


def _find_experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT))


def _list_exported(client: MlflowClient, experiment: str) -> dict[str, Any]:
    """MLflow's runs by the tag `run_id`."""
    runs: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs |= {run.data.tags["run_id"]: run for run in page if "run_id" in run.data.tags}
        token = page.token
        if not token:
            return runs


def _write_run(client: MlflowClient, experiment: str, ledger: Ledger, record: Record) -> None:
    """Write one run; its status is set last, so that one that was cut off can be told."""
    started, finished = _milliseconds(record["started_at"]), _milliseconds(record["finished_at"])
    tags = {key: str(record[key])[:LONGEST] for key in ("run_id", "setting_id", "command", "error", "finished_at")}
    tags |= {key: str(value) for key, value in record["provenance"].items()}
    run = client.create_run(experiment, start_time=started, tags=tags, run_name=record["run_id"])
    params = [Param(key, format_value(value)[:LONGEST]) for key, value in flatten(record["settings"])]
    client.log_batch(run.info.run_id, params=params)
    metrics = list_metrics(ledger, record)
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + BATCH])
    model = ledger.runs / record["run_id"] / MODEL_FILE
    if model.exists():
        client.log_artifact(run.info.run_id, os.fspath(model))
    status = "FINISHED" if record["status"] == "finished" else "FAILED"
    client.set_terminated(run.info.run_id, status, finished)


def list_metrics(ledger: Ledger, record: Record) -> list[Any]:
    """The scores as they stand in the table, and the curves as `epoch/<column>`, a step an epoch."""
    time = _milliseconds(record["finished_at"])
    metrics = [Metric(key, float(value), time, 0) for key, value in record["scores"].items() if _is_number(value)]
    try:
        history = read_history(ledger, record["run_id"])
    except OSError:
        return metrics
    epochs = history.pop("epoch").astype(int).tolist()
    for key, values in history.items():
        points = zip(epochs, values.tolist(), strict=True)
        metrics += [Metric(f"epoch/{key}", value, time, epoch) for epoch, value in points if _is_number(value)]
    return metrics


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _milliseconds(moment: str) -> int:
    return round(1000 * datetime.fromisoformat(moment).timestamp())
