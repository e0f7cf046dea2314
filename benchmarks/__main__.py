"""The benchmarks' command: `python benchmarks --help`."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from suite.cases import ENGINES, SELECTIONS, committed_rows, selected
from suite.commits import Baton, install, run_by_turns
from suite.compare import compare_rows
from suite.inputs import ROOT
from suite.machine import facts
from suite.measured_rows import append_row, read_rows
from suite.memory import measure_here, measure_stream_here
from suite.runner import Runner

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Device = Annotated[str, typer.Option(help='"cpu" or "cuda".')]
Threads = Annotated[int | None, typer.Option(help="Compute threads; default PyTorch's.")]


@app.callback()
def about() -> None:
    """Measure the engine against the plain loop and against peers, and show what was measured."""


@app.command("list")
def list_selections() -> None:
    """The selections and their cases."""
    for name, (what, cases) in SELECTIONS.items():
        typer.echo(f"{name}: {what}")
        for case in cases:
            typer.echo(f"    {case.name}")
    typer.echo("operators: each operator against its floor")
    typer.echo("parts: where a call of the engine in C++ spends its time")
    typer.echo("training: a training step")
    typer.echo("serve: the service under load, beside other servers")
    typer.echo("sentence: one sentence, from its string to its embedding")
    typer.echo("corpus: from texts to embeddings, any amount of texts, beside others")
    typer.echo("crowd: a stream of texts beside other programs")
    typer.echo("cpu: all of these but quick, gpu, serve, corpus and crowd")


@app.command()
def run(
    selection: Annotated[str, typer.Argument(help="See `list`.")] = "cpu",
    output: Annotated[Path, typer.Option(help="Rows, one JSON object a line.")] = Path(
        "build/benchmarks/rows.jsonl"
    ),
    variant: Annotated[
        list[str] | None, typer.Option(help="Only this one, beside the reference; repeatable.")
    ] = None,
    case: Annotated[str | None, typer.Option(help="Only cases whose name holds this.")] = None,
    effort: Annotated[float, typer.Option(help="Multiplies the time spent on timing.")] = 1.0,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too.")] = True,
    device: Device = "cpu",
    threads: Threads = None,
    turns: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure a selection and write its rows. Fails if a variant's results are wrong."""
    if threads:
        torch.set_num_threads(threads)
    try:
        cases = [c for c in selected(selection) if case is None or case in c.name]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    baton = None
    if turns:  # what `commits` starts
        take, give, place = turns.split(",")
        baton = Baton(int(take), int(give), first=place == "first")
    try:  # before anything takes long
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(b"")
    except OSError as error:
        raise typer.BadParameter(f"--output: {error}") from error
    console, begun = Console(stderr=True), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            Path(folder),
            lambda row: append_row(output, row),
            device=device,
            only=variant,
            effort=effort,
            memory=memory,
            after_round=baton.pass_on if baton else None,
            console=console,
        )
        console.print(", ".join(f"{k} {v}" for k, v in facts(device).items()))
        for number, one in enumerate(cases, 1):
            elapsed = time.strftime("%M:%S", time.gmtime(time.perf_counter() - begun))
            console.print(f"case {number} of {len(cases)}, {elapsed} so far")
            console.print(case_table(runner.run(one)))
        if selection in ("operators", "cpu") and case is None:
            runner.run_operators()
        if selection in ("parts", "cpu") and case is None:
            runner.run_parts()
        if selection in ("training", "cpu") and case is None:
            console.print(case_table(runner.run_training()))
        if selection == "serve" and case is None:
            console.print(apart_table("serve", runner.run_serve()))
        if selection in ("sentence", "cpu") and case is None:
            console.print(apart_table("sentence", runner.run_sentence()))
        if selection == "corpus" and case is None:
            console.print(apart_table("corpus", runner.run_corpus()))
        if selection == "crowd" and case is None:
            console.print(apart_table("crowd", runner.run_crowd()))
    console.print(f"rows in {output}")
    if runner.wrong:
        raise typer.Exit(1)


def case_table(rows: list[dict]) -> Table:
    """A case's rows for reading."""
    table = Table(caption="\n".join(f"{v}: {why}" for v, why in _left_out(rows)))
    for column in ("variant", "seconds", "speed-up", "work saved", "of peak", "memory", "error"):
        table.add_column(column)
    for row in rows:
        if "seconds" not in row:
            continue
        memory, share = row.get("peak_memory"), row.get("kernel_efficiency")
        table.add_row(
            row["variant"],
            f"{row['seconds']:.4f}",
            f"{row['speed_up']:.2f}x",
            f"{row['work_saved']:.2f}x",
            f"{share:.0%}" if share else "",
            f"{memory / 2**20:.0f} MiB" if memory else "",
            f"{row['error']:.1e}",
        )
    return table


def apart_table(kind: str, rows: list[dict]) -> Table:
    """Rows that are measured apart, for reading."""
    from suite.tables import LINES  # with Matplotlib behind it

    header, lines = LINES[kind](rows)
    table = Table(*header, caption="\n".join(f"{v}: {why}" for v, why in _without_figures(rows)))
    for line in lines:
        table.add_row(*line)
    return table


@app.command()
def report(
    rows: Annotated[Path | None, typer.Argument(help="Default: the committed ones.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the page.")] = Path("build/benchmarks"),
    documents: Annotated[
        bool, typer.Option(help="Also make the tables of README.md and docs/performance.md anew.")
    ] = False,
) -> None:
    """Make pictures and a page of measured rows."""
    from suite.report import fill_documents, write_report  # Matplotlib is for this alone

    measured = _read(rows or committed_rows())
    typer.echo(write_report(measured, output))
    if documents:
        fill_documents(measured)


@app.command()
def full(
    threads: Threads = None,
    effort: Annotated[float, typer.Option(help="Multiplies the time spent on timing.")] = 1.0,
) -> None:
    """Measure selection cpu into the committed rows, and make page, pictures and tables of them.

    Takes less than 20 minutes on two cores, which should do nothing else.
    """
    import suite.report  # noqa: F401  # what the end needs is there before the beginning

    fresh = Path("build/benchmarks/cpu.jsonl")
    run("cpu", output=fresh, threads=threads, effort=effort)
    committed_rows().parent.mkdir(exist_ok=True)
    committed_rows().write_bytes(fresh.read_bytes())
    report(output=ROOT / "docs/performance", documents=True)


@app.command()
def compare(old: Path, new: Path) -> None:
    """Compare two files of rows by their speed-ups over the reference loop. Fails if one fell by
    more than the noise, or lost its time."""
    try:
        changes = compare_rows(_read(old), _read(new))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    table = Table()
    for column in ("case", "variant", "old", "new", "change", "limit", ""):
        table.add_column(column)
    for change in changes:
        both = change.old and change.new
        table.add_row(
            change.case,
            change.variant,
            f"{change.old:.2f}x" if change.old else "",
            f"{change.new:.2f}x" if change.new else "",
            f"{change.new / change.old - 1:+.0%}" if both else "",
            f"-{change.limit:.0%}",
            f"[red]regression[/red] {change.reason}" if change.is_regression else "",
        )
    Console().print(table)
    if any(change.is_regression for change in changes):
        raise typer.Exit(1)


@app.command()
def commits(
    base: Annotated[str, typer.Argument(help="A commit to compare with.")],
    head: Annotated[str, typer.Argument(help="The commit that is judged.")] = "HEAD",
    selection: str = "targets",
    case: str | None = None,
    effort: float = 1.0,
) -> None:
    """Build two commits, run this suite's engines over both by turns, round by round, and compare.
    Needs what the package's build needs; several minutes."""
    options = ["--effort", str(effort), "--no-memory", *(["--case", case] if case else [])]
    for engine in ENGINES:
        options += ["--variant", engine]
    with tempfile.TemporaryDirectory() as folder:
        sites = []
        for name, commit in (("old", base), ("new", head)):
            typer.echo(f"building {commit}")
            (Path(folder) / name).mkdir()
            sites.append(install(commit, Path(folder) / name))
        rows = [site.with_suffix(".jsonl") for site in sites]
        arguments = [[selection, "--output", str(to), *options] for to in rows]
        for commit, status in zip((base, head), run_by_turns(sites, arguments), strict=True):
            if status != 0:
                typer.echo(f"{commit}: the run ended with status {status}, see above")
        if not all(path.exists() for path in rows):
            raise typer.Exit(1)
        compare(*rows)


def _read(path: Path) -> list[dict]:
    try:
        return read_rows(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _without_figures(rows: list[dict]) -> list[tuple[str, str]]:
    reasons = [(row["variant"], row.get("skipped") or row.get("wrong")) for row in rows]
    return [(variant, why) for variant, why in reasons if why]


def _left_out(rows: list[dict]) -> list[tuple[str, str]]:
    return [(r["variant"], r.get("skipped") or r["wrong"]) for r in rows if "seconds" not in r]


@app.command(hidden=True)
def stream_memory(counts: list[int]) -> None:
    """Peak memory of a stream in this process."""
    typer.echo(json.dumps(measure_stream_here(counts)))


@app.command(hidden=True)
def crowd_call(texts: int, threads: Threads = None) -> None:
    """One stream of texts in this process: what `run crowd` starts for each."""
    from suite.crowd import measure_call_here  # an older commit's package has no TextEncoder

    if threads:
        torch.set_num_threads(threads)
    typer.echo(json.dumps(measure_call_here(texts)))


@app.command(hidden=True)
def memory(
    case: str, variant: str, folder: Path, device: Device = "cpu", threads: Threads = None
) -> None:
    """Peak memory of one variant in this process: what `run` starts for each."""
    if threads:
        torch.set_num_threads(threads)
    typer.echo(json.dumps({"peak_memory": measure_here(case, variant, folder, device)}))


if __name__ == "__main__":
    app()
