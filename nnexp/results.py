"""The command `nnexp-results`: what the runs in an outputs directory come to."""

import difflib
import random
import sys
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nnexp.config import format_value
from nnexp.console import err, format_run, out, show_warnings
from nnexp.ledger import Ledger, LedgerError, Record, flatten

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

Outputs = Annotated[Path, typer.Option("--outputs", help="The directory that the runs were written to.")]


class Format(StrEnum):
    """How a table is printed."""

    TEXT = "text"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"


class Target(StrEnum):
    """What runs can be exported to."""

    MLFLOW = "mlflow"


def main() -> None:
    """Run a command: 0 done, 1 something failed, 2 a wrong argument."""
    show_warnings()
    try:
        app()
    except LedgerError as error:
        err.print(f"nnexp-results: {error}", markup=False)
        sys.exit(1)


@app.callback()
def describe() -> None:
    """What the runs of nnexp come to: compare settings, look at one run, mend the table."""


@app.command()
def table(
    outputs: Outputs = Path("outputs"),
    where: Annotated[str, typer.Option(help="Rows to use, a pandas query: 'model == \"mlp\" and l2 > 0'")] = "",
    sort: Annotated[str, typer.Option(help="Column to sort by, the largest first.")] = "test_accuracy",
    format_: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TEXT,
) -> None:
    """Compare settings: one line a setting, over its seeds."""
    from nnexp.report import compare_results, format_comparison, load_results

    ledger = open_ledger(outputs)
    results = load_results(outputs)
    if where:
        results = select_rows(results, where)
    comparison = compare_results(ledger, results)
    if sort not in comparison.columns:
        fail(f"--sort: expected one of {', '.join(comparison.columns)}; received {sort}")
    if sort != "test_accuracy":
        comparison = comparison.sort_values(sort, ascending=False, ignore_index=True, kind="stable")
    print(format_comparison(comparison, format_.value), end="")


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="A run_id of the table, or a part that only one run has.")],
    outputs: Outputs = Path("outputs"),
) -> None:
    """Show one run: its settings, scores, log, and the command that runs it again."""
    ledger = open_ledger(outputs)
    record = find_record(ledger, run_id)
    out.print(format_run(record), markup=False)
    out.print(f"\ncommand  {record['command']}\nstarted  {record['started_at']}", markup=False)
    for title in ("settings", "scores", "provenance"):
        out.print(f"\n{title}")
        for key, value in flatten(record[title]):
            out.print(f"  {key:24} {format_value(value)}", markup=False)
    log = ledger.runs / record["run_id"] / "run.log"
    if log.exists():
        out.print(f"\nlog, {log}\n{log.read_text(encoding='utf-8')}", markup=False, end="")


@app.command()
def reproduce(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="RUN_ID...", help="As for show.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every finished run.")] = False,
    sample: Annotated[int, typer.Option(min=0, help="So many finished runs, drawn anew each time.")] = 0,
    outputs: Outputs = Path("outputs"),
) -> None:
    """Run runs again, in a fresh process, and say whether the same bits come out; 1 where a record does not stand."""
    from nnexp.reproduce import format_outcome, reproduce

    ledger = open_ledger(outputs)
    records = choose_records(ledger, run_ids or [], all_, sample)
    verdicts: Counter[str] = Counter()
    good = True
    for record, outcome in reproduce(ledger, records):
        out.print(format_outcome(record, outcome), markup=False)
        verdicts[outcome.verdict] += 1
        good &= outcome.is_good
    if len(records) > 1:
        out.print(f"{len(records)} runs: " + ", ".join(f"{count} {name}" for name, count in verdicts.items()))
    sys.exit(0 if good else 1)


def choose_records(ledger: Ledger, run_ids: list[str], all_: bool, sample: int) -> list[Record]:
    """The records that `reproduce` was asked for, each once."""
    if bool(run_ids) + all_ + bool(sample) != 1:
        fail("expected one of RUN_ID..., --all and --sample N; `nnexp-results table` and results.csv name the runs")
    if run_ids:
        return list({record["run_id"]: record for record in (find_record(ledger, part) for part in run_ids)}.values())
    finished = sorted(row["run_id"] for row in ledger.read_finished_rows())
    if not finished:
        fail(f"expected a finished run in {ledger.runs}; there is none", code=1)
    chosen = finished if all_ else sorted(random.sample(finished, min(sample, len(finished))))
    return ledger.read_records(chosen)


@app.command()
def report(
    outputs: Outputs = Path("outputs"),
    png: Annotated[Path | None, typer.Option(help="A directory for the main pictures, as PNG.")] = None,
    setting: Annotated[str, typer.Option(help="The setting_id to show first in detail; the best if left out.")] = "",
) -> None:
    """Write report.html: the comparison, its pictures and its evidence on one page."""
    from nnexp.page import write_report

    open_ledger(outputs)
    try:
        path = write_report(outputs, png, setting)
    except ValueError as error:
        fail(f"--setting: {error}")
    out.print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB", markup=False)
    if png is not None:
        out.print(f"wrote {len(list(png.glob('*.png')))} pictures to {png}", markup=False)


@app.command()
def export(
    target: Annotated[Target, typer.Argument(help="Where to.")],
    outputs: Outputs = Path("outputs"),
    tracking_uri: Annotated[str, typer.Option(help="MLflow's server or store; its own default if left out.")] = "",
) -> None:
    """Copy every run to MLflow, once: settings, scores, curves, and the model where it was saved."""
    ledger = open_ledger(outputs)
    try:
        from nnexp.export import ExportError, export_mlflow
    except ModuleNotFoundError:
        fail('export mlflow needs an extra: pip install "nnexp[mlflow]"', code=1)
    try:
        counts = export_mlflow(ledger, tracking_uri)
    except ExportError as error:
        fail(f"export mlflow: {error}", code=1)
    out.print(", ".join(f"{number} {what}" for what, number in counts.items()), markup=False)


@app.command()
def rebuild(outputs: Outputs = Path("outputs")) -> None:
    """Write results.csv anew from the records of the runs."""
    ledger = Ledger(outputs)
    rows = ledger.rebuild()
    require_runs(ledger)
    out.print(f"{ledger.table} has {rows} runs", markup=False)


def open_ledger(outputs: Path) -> Ledger:
    """The ledger of an outputs directory, healed; ends the program where there are no runs in it."""
    ledger = Ledger(outputs)
    ledger.heal()
    require_runs(ledger)
    return ledger


def require_runs(ledger: Ledger) -> None:
    """End the program where there are no runs to work on."""
    if not ledger.table.exists():
        fail(f"--outputs: expected a directory with runs; {ledger.outputs} has none. `nnexp` makes the first", code=1)


def find_record(ledger: Ledger, part: str) -> Record:
    """The record of the one run whose run_id is, or contains, `part`."""
    run_ids = ledger.list_recorded()
    found = [run_id for run_id in run_ids if run_id == part] or [run_id for run_id in run_ids if part in run_id]
    if len(found) != 1:
        near = found or difflib.get_close_matches(part, run_ids, n=3, cutoff=0.3)
        hint = f"; {'several runs have it' if found else 'near it'}: {', '.join(near[:5])}" if near else ""
        fail(f"RUN_ID: expected one of the {len(run_ids)} runs in {ledger.runs}; received {part}{hint}")
    record = ledger.read_record(found[0])
    assert record is not None
    return record


def select_rows(results: Any, where: str) -> Any:
    """The rows for which a pandas query holds."""
    try:
        rows = results.query(where)
    except Exception as error:  # pandas raises many kinds, for syntax, names and types
        fail(f"--where: expected a condition on columns, such as 'l2 > 0'; received {where} ({error})")
    if rows.empty:
        fail(f"--where: no run of {len(results)} fits {where}", code=1)
    return rows


def fail(message: str, code: int = 2) -> Any:
    """End the program with a message on stderr."""
    err.print(f"nnexp-results: {message}", markup=False)
    sys.exit(code)
