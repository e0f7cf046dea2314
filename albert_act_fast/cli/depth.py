"""`depth`: how many iterations each token takes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from albert_act_fast.cli import depth_pictures, loading, options, signals, split, text_formats
from albert_act_fast.cli.errors import CommandError
from albert_act_fast.cli.output import (
    Printer,
    allow_any_character,
    bar,
    encodes,
    needs_standard_output,
    print_json,
    print_json_line,
)
from albert_act_fast.cli.texts import (
    SourceText,
    Texts,
    needs_standard_input,
    texts_of_arguments,
    texts_of_file,
)
from albert_act_fast.cli.totals import Totals

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder
    from albert_act_fast.text import TextDepth

_BAR_COLUMNS = 24
# Few, so that the first results come soon.
_WINDOW = 256
# Of texts in one batch, for the rows that the dense loop would compute.
_DENSE_BATCH = 8


def depth(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts.", show_default=False)
    ] = None,
    file: Annotated[str | None, typer.Option("--file", metavar="F", help=text_formats.HELP)] = None,
    field: options.FieldOption = None,
    model: options.ModelOption = None,
    implementation: options.ImplementationOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    tokenization: options.TokenizationOption = None,
    threads: options.ThreadsOption = None,
    batch_size: options.BatchSizeOption = _DENSE_BATCH,
    max_iterations: options.MaxIterationsOption = None,
    act_epsilon: options.ActEpsilonOption = None,
    split_lines: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Cut each text into sentences, and those that are too long into windows of the "
            "model's length; leaves empty lines out.",
        ),
    ] = False,
    truncate: options.TruncateOption = False,
    skip_empty: options.SkipEmptyOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, at the end.")] = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One JSON object a text, as they come.")
    ] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Totals alone, by class of token; with --json too.")
    ] = False,
    inline: Annotated[
        bool,
        typer.Option(
            "--inline", help="The text itself, each token coloured by its depth; no bars."
        ),
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Also p and the accumulated probability of every iteration, by the plain loop: in "
            "--json, --jsonl, --html and --plot-kind curves.",
        ),
    ] = False,
    html: depth_pictures.HtmlOption = None,
    plot: depth_pictures.PlotOption = None,
    plot_kind: depth_pictures.PlotKindOption = depth_pictures.PlotKind.HEAT_MAP,
) -> None:
    """Iterations of each token, and rows computed against the dense loop's.

    Texts come from the arguments, from --file, or from standard input.
    """
    needs_standard_output()
    if as_jsonl and (as_json or summary):
        raise CommandError("--jsonl: got it with --json or --summary, expected it alone")
    if split_lines and truncate:
        raise CommandError("--split, --truncate: got both, expected one of the two")
    if inline and (as_json or as_jsonl or summary):
        raise CommandError("--inline: got it with --json, --jsonl or --summary, expected it alone")
    pictures = depth_pictures.Pictures(html, plot, plot_kind)
    skip_empty = skip_empty or split_lines
    found = _sources(texts or [], file, field, skip_empty)
    encoder = loading.load(
        model, implementation, device, dtype, quantization, threads, tokenization
    )
    name = loading.DEFAULT_MODEL if model is None else model
    allow_any_character(sys.stdout)
    run = _Run(encoder, found, batch_size, split_lines, truncate, skip_empty)
    rule = {"max_iterations": max_iterations, "act_epsilon": act_epsilon}
    description = loading.describe(name, encoder, **rule)
    with signals.at_work(), pictures:
        recorded = probabilities or pictures.needs_probabilities
        results = pictures.watch(run.depths(probabilities=recorded, **rule))
        if as_jsonl:
            for source, one in results:
                print_json_line(_text_as_dict(source, one))
        elif as_json:
            documents = [None if summary else _text_as_dict(s, one) for s, one in results]
            print_json(
                {
                    **description,
                    "batch_size": batch_size,
                    **({} if summary else {"texts": documents}),
                    "totals": run.totals.as_dict(),
                }
            )
        else:
            _print_bars(run, description, results, summary, inline)


class _Run:
    """Depths of texts with the places they came from, and their totals."""

    def __init__(self, encoder: TextEncoder, texts: Texts, batch_size, splits, truncate, skip):
        self.encoder, self.texts = encoder, texts
        self.splits, self.truncate, self.skip = splits, truncate, skip
        self.batch_size = batch_size
        self.totals = Totals(encoder, batch_size)

    def depths(self, **rule) -> Iterator[tuple[SourceText, TextDepth]]:
        """In the order of the texts.

        Raises:
            CommandError: a text has no depth.
        """
        from albert_act_fast.text import TextError

        waiting: deque[SourceText] = deque()

        def feed() -> Iterator[str]:
            for source in self.texts:
                parts = split.parts(source, self.encoder) if self.splits else [source]
                for part in parts:
                    waiting.append(part)
                    yield part.text

        with loading.option_errors():
            stream = self.encoder.depths(
                feed(),
                truncation=self.truncate,
                batch_size=self.batch_size,
                window=_WINDOW,
                stops=lambda e: not (self.skip and e.kind in loading.SKIPPED),
                fail_first=True,
                **rule,
            )
        taken = 0
        try:
            for one in stream:
                source = waiting.popleft()
                taken += 1
                if isinstance(one, TextError):
                    self.totals.skipped += 1
                    continue
                self.totals.add(one)
                yield source, one
        except TextError as error:
            raise loading.text_error(error, waiting[error.index - taken]) from None
        finally:
            stream.close()
        self.totals.skipped += self.texts.skipped
        if not self.totals.texts:
            raise CommandError("TEXT: got none that the model knows a token of")


def _sources(texts: list[str], file: str | None, field: str | None, skip_empty: bool) -> Texts:
    if texts and file is not None:
        raise CommandError("TEXT, --file: got both, expected one of the two")
    if texts:
        return texts_of_arguments(texts)
    if file is None:
        needs_standard_input("TEXT")
        if sys.stdin.isatty():
            raise CommandError(
                "TEXT: got none, expected a text, --file, or texts on standard input, one a line"
            )
    argument = "TEXT" if file is None else "--file"
    path = "-" if file is None else file
    return texts_of_file(argument, path, skip_empty=skip_empty, field=field)


def _text_as_dict(source: SourceText, depth: TextDepth) -> dict:
    recorded = {}
    if depth.probabilities is not None:
        recorded = {"probabilities": depth.probabilities, "accumulated": depth.accumulated}
    return {
        "text": depth.text,
        "line": source.line,
        "truncated": depth.cost.truncated,
        "tokens": depth.tokens,
        "input_ids": depth.input_ids,
        "offsets": depth.offsets,
        "n_updates": depth.iterations,
        "remainders": depth.remainders,
        **recorded,
        "totals": {
            "tokens": depth.cost.tokens,
            "mean_iterations": depth.cost.mean_iterations,
            "max_iterations": max(depth.iterations),
            "updates": depth.cost.rows,
        },
    }


def _print_bars(run: _Run, description: dict, results, summary: bool, inline: bool) -> None:
    encoder = run.encoder
    out = Printer(sys.stdout)
    limit = description["rule"]["max_iterations"]
    for count, (_, one) in enumerate(results):
        if count == 0:  # a mistake in the first texts comes alone
            _print_model(out, encoder, description, limit)
        if inline:
            _print_inline(out, one)
        elif not summary:
            _print_text(out, one, limit)
    totals = run.totals
    figures = totals.as_dict()
    computed, dense = figures["rows_computed"], figures["rows_dense"]
    out.line()
    if summary:
        for kind, one in figures["classes"].items():
            out.line(
                f"  {kind:<8}{_count(one['tokens'], 'token'):>16}; iterations: "
                f"mean {one['mean_iterations']:.1f}, max {one['max_iterations']}"
            )
    out.line(
        ("total  ", "bold"),
        f"{_count(totals.texts, 'text')}, {_count(totals.tokens, 'token')}; "
        f"iterations: mean {figures['mean_iterations']:.1f}, max {totals.max_iterations}",
    )
    out.line(
        ("rows   ", "bold"),
        f"{computed} computed of the dense loop's {dense} ({computed / dense:.1%}), "
        f"{_count(run.batch_size, 'text')} at most in a batch",
    )
    if totals.truncated:
        out.line((f"{_count(totals.truncated, 'text')} cut to the model's length", "yellow"))
    if totals.skipped:
        out.line((f"{_count(totals.skipped, 'empty text')} left out", "yellow"))


def _print_model(out: Printer, encoder: TextEncoder, description: dict, limit: int) -> None:
    model = description["model"]
    out.line(
        ("model  ", "bold"),
        model["name"],
        " (ships with the package)" if model["shipped"] else "",
        f"; at most {limit} iterations; {encoder.implementation} on {encoder.device.type}, "
        f"{loading.precision(encoder)}",
    )


def _print_text(out: Printer, depth: TextDepth, limit: int) -> None:
    from rich.cells import cell_len

    out.line()
    out.line((" ".join(depth.text.split()), "bold"))
    column = max(map(cell_len, depth.tokens))
    for token, iterations in zip(depth.tokens, depth.iterations, strict=True):
        pad = " " * (column - cell_len(token))
        length = _BAR_COLUMNS * iterations / limit
        colour = "green" if 3 * iterations <= limit else "yellow"
        out.line(
            f"  {token}{pad} {iterations:>{len(str(limit))}} ",
            (bar(length, sys.stdout), "red" if 3 * iterations > 2 * limit else colour),
        )
    out.line(
        f"  {_count(depth.cost.tokens, 'token')}; iterations: "
        f"mean {depth.cost.mean_iterations:.1f}, max {max(depth.iterations)}"
    )


def _print_inline(out: Printer, depth: TextDepth) -> None:
    import shutil

    from albert_act_fast.depth import terminal_lines

    columns = shutil.get_terminal_size().columns
    out.line()
    for line in terminal_lines(depth, columns=columns, subscripts=encodes(sys.stdout, "₀")):
        out.line(*line)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
