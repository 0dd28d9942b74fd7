"""What has been run: one record a run, who is running what, and the results table.

The truth is `runs/<run_id>/result.json`, written whole or not at all. `results.csv` is derived from the records:
a row is appended as each run ends, and `heal` mends what a killed process left behind.

The claims and the table change only under one short lock, `.ledger/lock`. A process that runs a cell holds a claim
on it, in `.ledger/claims`: a lock, and a note of the record that stands if the process never writes another. The lock
ends with the process and the note stays, which is how a run that was cut off is told from one that is going on.
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nnexp.config import OPTIMIZER_NUMBERS, Config, format_value

SCHEMA_VERSION = 1
"""Of result.json; raised, with a step in `upgrade_record` and a fixture in tests/records, when readers must know."""

COLUMNS = (
    *("run_id", "setting_id", "status", "started_at"),
    *("model", "filters", "units", "activation", "dropout", "l2"),
    *("optimizer", "learning_rate", "optimizer_settings", "epochs", "batch_size", "early_stopping"),
    *("data", "train_size", "validation_size", "split_seed", "seed", "engine", "xla", "threads"),
    *("train_accuracy", "test_accuracy", "accuracy_gap", "train_loss", "test_loss"),
    *("validation_accuracy", "validation_loss", "epochs_run", "best_epoch"),
    *("parameters", "train_seconds", "seconds"),
    *("nnexp", "tensorflow", "keras", "python", "git_commit", "data_sha256", "weights_sha256"),
    "error",
)
"""The columns of results.csv; docs/results.md says what each one means."""

ZERO_WHEN_FAILED = ("epochs_run", "best_epoch", "parameters")
"""0 in a failed row, so that it does not turn a column of whole numbers into floats."""

RESULT, FAILURE = "result.json", "failure.json"
"""A run's record; and that of a later attempt that failed and so did not take the place of a finished one."""

RECORD_KEYS = (
    *("run_id", "setting_id", "identity_sha256", "model_name", "description", "command", "started_at", "settings"),
    *("status", "finished_at", "scores", "provenance", "error"),
)
"""What every record has, of any schema after `upgrade_record`."""

TEMPORARIES = (".*.tmp", ".tmp.*")
"""What a process that died may have left in a run's directory; other hidden files there are somebody's."""

VERSIONS = ("nnexp", "tensorflow", "keras", "python")

DIED = "Died: its process ended without a result (killed, out of memory, or crashed)"
"""The error of a run that took its process down."""

Record = dict[str, Any]
Stamp = tuple[tuple[int, int], ...]

log = logging.getLogger(__name__)


class LedgerError(OSError):
    """The ledger could not be written; the message says what is safe and what to do."""


@dataclass
class Result:
    """What one run came to.

    Attributes:
        scores: the score and cost columns of a finished run, by name.
        provenance: what the numbers depend on beside the settings: versions, git commit, hashes.
        history: one row an epoch, by column name.
        predictions: of every test image, `label` uint8 [n] and `confidence` float16 [n].
        error: one line; empty when the run finished.
    """

    scores: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    predictions: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass
class Claim:
    """The right to run one cell, held until it is released or its process ends.

    Attributes:
        record: what stands if the process never records anything else.
        replaces: the run's row in the table as it was when claimed, or "".
        in_doubt: whether the record is being written, and its row may not have been.
    """

    lock: FileLock
    record: Record
    replaces: str
    in_doubt: bool = False

    @property
    def note(self) -> Path:
        """The file that tells others of the claim, when its process is gone."""
        return Path(self.lock.lock_file).with_suffix(".json")


class Ledger:
    """The records, the claims and the table of one `outputs` directory. Making one does not touch the disk."""

    def __init__(self, outputs: str | Path) -> None:
        self.outputs = Path(outputs)
        self.runs = self.outputs / "runs"
        self.table = self.outputs / "results.csv"
        self._claims = self.outputs / ".ledger" / "claims"
        self._lock = FileLock(self.outputs / ".ledger" / "lock")

    def read_record(self, run_id: str) -> Record | None:
        """The record of a run, or None where there is none."""
        return _read_record(self.runs / run_id / RESULT)

    def read_records(self, run_ids: Iterable[str] | None = None) -> list[Record]:
        """The records of these runs, or of all, the oldest first; what cannot be read is left out, with one warning."""
        records, problems = [], []
        for run_id in self.list_recorded() if run_ids is None else run_ids:
            try:
                records.append(self.read_record(run_id))
            except LedgerError as error:
                problems.append(str(error))
        if problems:
            more = f" (and {len(problems) - 1} more cannot be read)" if len(problems) > 1 else ""
            log.warning("left out: %s%s", min(problems), more)
        found = [record for record in records if record is not None]
        return sorted(found, key=lambda record: (record["finished_at"], record["run_id"]))

    def list_recorded(self) -> list[str]:
        """The run_id of every run that has a record."""
        return sorted(path.parent.name for path in self.runs.glob(f"*/{RESULT}"))

    def read_last(self, run_id: str) -> Record | None:
        """The record of the last attempt at a run: of its failure, if it failed when it was forced over a result."""
        return _read_record(self.runs / run_id / FAILURE) or self.read_record(run_id)

    def read_settled(self, config: Config) -> Record | None:
        """The record of exactly these settings, finished or failed, or None.

        Raises:
            LedgerError: if other settings have the same run_id (a collision of the 8 digits).
        """
        record = self.read_record(config.run_id)
        if record is not None and record["identity_sha256"] != config.identity_sha256:
            raise LedgerError(
                f"{config.run_id} in {self.outputs} is the record of other settings, or of an nnexp that hashed them "
                "otherwise; choose another directory with outputs=..."
            )
        return record

    def claim(self, config: Config, command: str, provenance: dict[str, Any]) -> Claim | None:
        """Claim a run for this process; None where another process is running it."""
        with _explain_full_disk(f"could not claim {config.run_id}"), self._locked():
            path = self._claims / f"{config.run_id}.lock"
            self._bury(path)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return None
            previous = self.read_record(config.run_id)
            record = make_record(config, Result(error=DIED, provenance=provenance), command)
            claim = Claim(lock, record, format_row(previous) if previous else "")
            try:
                claim.note.write_text(json.dumps({"record": record, "replaces": claim.replaces}))
                (self.runs / config.run_id).mkdir(parents=True, exist_ok=True)
                (self.runs / config.run_id / "run.log").touch()
            except OSError:
                self.release(claim)
                raise
        return claim

    def release(self, claim: Claim) -> None:
        """Give a claim back; what was recorded stays."""
        with self._locked():
            try:
                if claim.in_doubt:
                    self._settle(claim.note, died=False)
                _remove_claim(claim.note)
            except OSError:  # a full disk, which `record` has told of: the note stays, and `heal` settles it
                pass
            finally:
                claim.lock.release()

    def is_running(self, run_id: str) -> bool:
        """Whether a living process holds the claim on a run."""
        path = self._claims / f"{run_id}.lock"
        if not path.exists():
            return False
        with self._locked():
            return path.exists() and not _is_abandoned(path)

    def record(self, claim: Claim, result: Result) -> Record:
        """Write a run's files, then its record and its row. A finished record is not replaced by a failure.

        Raises:
            LedgerError: if the disk is full or cannot be written; what was recorded before is intact.
        """
        record = claim.record | fill_record(claim.record, result)
        directory = self.runs / record["run_id"]
        with _explain_full_disk(f"could not record {record['run_id']}"):
            if result.history:
                _write_whole(directory / "history.csv", _format_table(result.history))
            if result.predictions:
                _write_whole(directory / "predictions.npz", _format_arrays(result.predictions))
            claim.in_doubt = True
            self._commit(record)
            claim.in_doubt = False
        return record

    def keep_environment(self, packages: str) -> None:
        """Keep a list of packages as `environments/<its SHA-256>.txt`, written once."""
        path = self.outputs / "environments" / f"{hashlib.sha256(packages.encode()).hexdigest()}.txt"
        if not path.exists():
            with _explain_full_disk(f"could not keep {path}"), self._locked():
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_whole(path, packages.encode())

    def heal(self) -> None:
        """Mend what killed processes and other hands left: bury abandoned claims, bring the table up to the records."""
        if not self.runs.is_dir() and not self.table.exists():
            return
        with _explain_full_disk("could not bring the table up to date"), self._locked():
            self._tidy()
            if not self._is_table_current():
                self._rewrite_table()

    def rebuild(self) -> int:
        """Write the table anew from the records; returns how many rows it has."""
        if not self.runs.is_dir() and not self.table.exists():
            return 0
        with _explain_full_disk("could not rebuild the table"), self._locked():
            self._tidy()
            self._rewrite_table()
            return self.table.read_bytes().count(b"\n") - 1

    def forget_claims(self, run_ids: Iterable[str]) -> None:
        """Take back the claims of processes that were stopped on purpose: their cells count as not run."""
        with self._locked():
            for run_id in run_ids:
                self._bury(self._claims / f"{run_id}.lock", died=False)

    def stamp(self, run_id: str) -> Stamp:
        """Changes whenever an attempt at a run is recorded."""
        return tuple(_stamp(self.runs / run_id / name) for name in (RESULT, FAILURE))

    def read_finished_rows(self) -> list[dict[str, str]]:
        """The finished rows of the table, as text by column."""
        if not self.table.exists():
            return []
        with open(self.table, newline="", encoding="utf-8", errors="replace") as table:
            return [row for row in csv.DictReader(table) if row.get("status") == "finished"]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._claims.mkdir(parents=True, exist_ok=True)
        with self._lock:
            yield

    def _commit(self, record: Record) -> None:
        directory = self.runs / record["run_id"]
        temporary = _write_temporary(directory / RESULT, (json.dumps(record, indent=1) + "\n").encode())
        with self._locked():
            previous = self.read_record(record["run_id"])
            if record["status"] == "failed" and previous and previous["status"] == "finished":
                os.replace(temporary, directory / FAILURE)
                return
            os.replace(temporary, directory / RESULT)
            (directory / FAILURE).unlink(missing_ok=True)
            if previous or not self._append_row(record):
                self._rewrite_table(format_row(previous) if previous else "")

    def _append_row(self, record: Record) -> bool:
        """Append a row; False where the table is not as this version leaves it and has to be written anew."""
        if not self.table.exists():
            _write_whole(self.table, _HEADER.encode())
        with open(self.table, "a+b", buffering=0) as table:  # "a": no other writer's row is ever written over
            table.seek(0)
            is_ours = table.read(len(_HEADER)) == _HEADER.encode()
            end = table.seek(0, os.SEEK_END)
            table.seek(max(end - 1, 0))
            if not is_ours or table.read(1) != b"\n":
                return False
            row = format_row(record).encode()
            try:
                if table.write(row) < len(row):
                    raise OSError("no space left on the device")
                os.fsync(table.fileno())
            except OSError:
                table.truncate(end)
                raise
        return True

    def _is_table_current(self) -> bool:
        """Whether header and run_ids are those of the records; the rest of a row is looked at when it is rewritten."""
        recorded = {entry.name for entry in os.scandir(self.runs)} if self.runs.is_dir() else set()
        if not self.table.exists():
            return not any((self.runs / run_id / RESULT).exists() for run_id in recorded)
        lines = self.table.read_bytes().decode("utf-8", "replace").splitlines(keepends=True)
        run_ids = [line.partition(",")[0] for line in lines[1:]]
        if lines[:1] != [_HEADER] or not lines[-1].endswith("\n") or len(set(run_ids)) < len(run_ids):
            return False
        unlisted = recorded.difference(run_ids)
        return recorded.issuperset(run_ids) and not any((self.runs / id_ / RESULT).exists() for id_ in unlisted)

    def _rewrite_table(self, replaces: str = "") -> None:
        """Bring every row up to its record, each in its place; keep a table that other hands have changed aside.

        The row of a record that cannot be read stays as it is.

        Args:
            replaces: a row that is known to be out of date, because the run has been recorded anew.
        """
        missing = {record["run_id"]: format_row(record) for record in self.read_records()}
        unreadable = set(self.list_recorded()) - missing.keys()
        old = self.table.read_bytes().decode("utf-8", "replace") if self.table.exists() else _HEADER
        header, *lines = old.splitlines(keepends=True) or [""]
        rows, strange = [_HEADER], header != _HEADER
        for line in lines:
            run_id = line.partition(",")[0]
            row = missing.pop(run_id, "")
            if run_id in unreadable and header == _HEADER and line.endswith("\n"):
                unreadable.remove(run_id)
                row = line
            rows.append(row)
            is_torn = not line.endswith("\n") and row.startswith(line)
            strange |= line not in (row, replaces) and not is_torn
        text = "".join([*rows, *missing.values()])
        if strange:
            self._set_table_aside()
        if text != old or not self.table.exists():
            _write_whole(self.table, text.encode())

    def _set_table_aside(self) -> None:
        kept = self.table.with_name(f"results-kept-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.csv")
        shutil.copy2(self.table, kept)
        log.warning(
            "%s was not as nnexp had written it (edited, saved by another program, or of another version): "
            "it is kept as %s and written anew from the records",
            *(self.table.name, kept.name),
        )

    def _tidy(self) -> None:
        """Bury abandoned claims, and drop what was being written as its process died."""
        for path in sorted(self._claims.glob("*.lock")):
            self._bury(path)
        for pattern in (f".{self.table.name}.*.tmp", "environments/.*.tmp"):
            for temporary in self.outputs.glob(pattern):
                temporary.unlink()

    def _bury(self, path: Path, died: bool = True) -> None:
        """Settle and remove a claim that no living process holds."""
        if path.exists() and _is_abandoned(path):
            self._settle(path.with_suffix(".json"), died)
            _remove_claim(path)

    def _settle(self, note: Path, died: bool = True) -> None:
        """Bring a claim to its end: its run is recorded, or counts as failed if its process died of itself."""
        try:
            content = json.loads(note.read_bytes())
            record, run_id = content["record"], content["record"]["run_id"]
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # cut off before it was written: nothing had begun
            return
        self._drop_temporary(run_id)
        last = self.read_last(run_id)
        if last and last.get("attempt") == record.get("attempt", ""):  # a claim of an older nnexp has none
            self._rewrite_table(content["replaces"])
        elif died:
            self._commit(record)
            log.warning("%s was cut off and counts as failed until it is run again", run_id)

    def _drop_temporary(self, run_id: str) -> None:
        for pattern in TEMPORARIES:
            for temporary in (self.runs / run_id).glob(pattern):
                temporary.unlink()


def upgrade_record(record: Record) -> Record:
    """A record of any released schema as one of SCHEMA_VERSION: the one place that knows the older ones.

    Raises:
        LedgerError: if it is of a newer nnexp.
    """
    if not 1 <= record["schema"] <= SCHEMA_VERSION:
        raise LedgerError(
            f"{record['run_id']}: expected a record of schema 1 to {SCHEMA_VERSION}; received schema "
            f"{record['schema']}, of a newer nnexp. Install that one to read these results"
        )
    return record  # schema 1 is the first: there is nothing to upgrade yet


def make_record(config: Config, result: Result, command: str) -> Record:
    """What is written of a run: identity, settings, scores, provenance, and the command that runs it again."""
    settings = dataclasses.asdict(config)
    for key in ("outputs", "force", "dry_run", "fail_fast"):
        del settings[key]
    settings["data"]["train_size"] = config.train_size
    settings["xla"] = config.use_xla
    record = {
        "schema": SCHEMA_VERSION,
        "run_id": config.run_id,
        "setting_id": config.setting_id,
        "identity_sha256": config.identity_sha256,
        "model_name": config.model_name,
        "description": config.describe(),
        "command": command,
        "attempt": secrets.token_hex(8),  # no two share it, as they may share a time if the clock is set back
        "started_at": _now(),
        "settings": settings,
    }
    return record | fill_record(record, result)


def fill_record(record: Record, result: Result) -> Record:
    """The part of a record that is known when the run has ended."""
    return {
        "status": "failed" if result.error else "finished",
        "finished_at": _now(),
        "scores": result.scores,
        "provenance": record.get("provenance", {}) | result.provenance,
        "error": "".join(letter if letter.isprintable() else " " for letter in " ".join(result.error.split()))[:500],
    }


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as (dotted key, value)."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        flat += flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return flat


def format_row(record: Record) -> str:
    """A record as its line of results.csv, with the line's end."""
    settings = record["settings"]
    model, optimizer, data = settings["model"], settings["optimizer"], settings["data"]
    numbers = OPTIMIZER_NUMBERS[optimizer["name"]]
    values = dict.fromkeys(ZERO_WHEN_FAILED, 0) | record | settings | record["scores"] | record["provenance"]
    values |= (
        model
        | data
        | {
            "model": record["model_name"],
            "optimizer": optimizer["name"],
            "learning_rate": optimizer["learning_rate"],
            "optimizer_settings": " ".join(f"{key}={format_value(optimizer[key])}" for key in numbers),
            "early_stopping": settings["early_stopping"] or 0,
            "data": data["name"],
        }
    )
    values |= {column: _format_version(values.get(column, "")) for column in VERSIONS}
    values["error"] = guard_cell(values.get("error", ""))
    return _format_line(values.get(column, "") for column in COLUMNS)


def guard_cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula: one that begins like it is put behind an apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _format_version(version: str) -> str:
    """A version that does not read as a number: 2.22 is 2.22.0."""
    return f"{version}.0" if version.count(".") == 1 else version


def _format_line(values: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


_HEADER = _format_line(COLUMNS)


def _format_table(rows: list[dict[str, float]]) -> bytes:
    return "".join([_format_line(rows[0]), *(_format_line(row.values()) for row in rows)]).encode()


def _format_arrays(arrays: dict[str, Any]) -> bytes:
    import numpy as np

    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _is_abandoned(path: Path) -> bool:
    """Whether no living process holds the lock of a claim."""
    lock = FileLock(path)
    try:
        with lock.acquire(timeout=0):
            return True
    except Timeout:
        return False


def _remove_claim(path: Path) -> None:
    for suffix in (".json", ".lock"):  # the lock last: a claim is found by it
        path.with_suffix(suffix).unlink(missing_ok=True)


def _read_record(path: Path) -> Record | None:
    try:
        record = upgrade_record(json.loads(path.read_bytes()))
        if lacking := [key for key in RECORD_KEYS if key not in record]:
            raise ValueError(f"it has no {lacking[0]}")
        if record["run_id"] != path.parent.name:
            raise ValueError(f"it is that of {record['run_id']}")
        format_row(record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except LedgerError:
        raise
    except OSError as error:
        raise LedgerError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise LedgerError(
            f"{path} is not its run's record ({reason}); remove it, and its run counts as not run"
        ) from error
    return record


def _stamp(path: Path) -> tuple[int, int]:
    try:
        return path.stat().st_ino, path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0


def _write_whole(path: Path, content: bytes) -> None:
    os.replace(_write_temporary(path, content), path)


def _write_temporary(path: Path, content: bytes) -> Path:
    """Write beside `path`, flushed to the disk; leaves nothing where that fails."""
    # not the process's number, which on another machine that shares the folder may be the same
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


@contextlib.contextmanager
def _explain_full_disk(what: str) -> Iterator[None]:
    try:
        yield
    except LedgerError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise LedgerError(
            f"{what}: {error.strerror or error}{where}. What was recorded before is intact; "
            "mend the cause and type the command again"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
