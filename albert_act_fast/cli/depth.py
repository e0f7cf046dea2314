"""`depth`: how many iterations each token takes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from albert_act_fast.cli import options, running
from albert_act_fast.cli.errors import CommandError
from albert_act_fast.cli.output import Printer, allow_any_character, bar, print_json
from albert_act_fast.cli.running import Runner, TokenizedText
from albert_act_fast.cli.texts import SourceText, texts_of_arguments, texts_of_file

_BAR_COLUMNS = 24


def depth(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts.", show_default=False)
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="F", help="A UTF-8 file, one text a line; - is stdin."),
    ] = None,
    model: options.ModelOption = None,
    implementation: options.ImplementationOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    batch_size: options.BatchSizeOption = 8,
    truncate: options.TruncateOption = False,
    skip_empty: options.SkipEmptyOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Iterations of each token, and rows computed against the dense loop's.

    Texts come from the arguments, from --file, or from standard input.
    """
    sources = _sources(texts or [], file, skip_empty)
    runner = running.load(model, implementation, device, dtype, quantization)
    tokenized = runner.tokenize(sources, truncate=truncate)
    allow_any_character(sys.stdout)
    if as_json:
        _print_json(runner, tokenized, batch_size)
    else:
        _print_bars(runner, tokenized, batch_size)


@dataclass
class TextDepths:
    """What the model says of one text, without padding."""

    text: TokenizedText
    n_updates: list[int]
    remainders: list[float]


@dataclass
class Totals:
    """Sums over all texts. A row is one token in one iteration; the dense loop computes, for each
    batch, every place of the padded batch in every iteration until its last token has halted.
    """

    computes_all: bool
    texts: int = 0
    tokens: int = 0
    updates: int = 0
    max_iterations: int = 0
    rows_dense: int = 0
    truncated: int = 0

    def add(self, batch: list[TextDepths]) -> None:
        """Takes in the texts of one batch."""
        deepest = max(max(t.n_updates) for t in batch)
        longest = max(len(t.n_updates) for t in batch)
        self.texts += len(batch)
        self.tokens += sum(len(t.n_updates) for t in batch)
        self.updates += sum(sum(t.n_updates) for t in batch)
        self.max_iterations = max(self.max_iterations, deepest)
        self.rows_dense += len(batch) * longest * deepest
        self.truncated += sum(t.text.truncated for t in batch)

    @property
    def rows_computed(self) -> int:
        """The reference loop computes every row; the engine those of running tokens."""
        return self.rows_dense if self.computes_all else self.updates

    def as_dict(self) -> dict:
        """What `--json` prints."""
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "mean_iterations": self.updates / self.tokens,
            "max_iterations": self.max_iterations,
            "rows_computed": self.rows_computed,
            "rows_dense": self.rows_dense,
            "rows_ratio": self.rows_computed / self.rows_dense,
        }


def _sources(texts: list[str], file: str | None, skip_empty: bool) -> list[SourceText]:
    if texts and file is not None:
        raise CommandError("TEXT, --file: got both, expected one of the two")
    if texts:
        return texts_of_arguments(texts)
    if file is None and sys.stdin.isatty():
        raise CommandError(
            "TEXT: got none, expected a text, --file, or texts on standard input, one a line"
        )
    argument = "TEXT" if file is None else "--file"
    return texts_of_file(argument, "-" if file is None else file, skip_empty=skip_empty)


def _depths(runner: Runner, batch: list[TokenizedText]) -> list[TextDepths]:
    out = runner.run(batch)
    # A token that is not a number never halts and has no depth worth showing.
    runner.refuse_not_finite(out.last_hidden_state, batch)
    # Padding is on the right, so a text's own places come first.
    n_updates, remainders = out.n_updates.int().tolist(), out.remainders.tolist()
    return [
        TextDepths(t, n_updates[i][: len(t.input_ids)], remainders[i][: len(t.input_ids)])
        for i, t in enumerate(batch)
    ]


def _print_json(runner: Runner, texts: list[TokenizedText], batch_size: int) -> None:
    totals = Totals(runner.choice.name == "reference")
    results = []
    for batch in running.batches(texts, batch_size):
        depths = _depths(runner, batch)
        totals.add(depths)
        results += [_text_as_dict(d) for d in depths]
    print_json(
        {
            **runner.describe(),
            "batch_size": batch_size,
            "texts": results,
            "totals": totals.as_dict(),
        }
    )


def _text_as_dict(depths: TextDepths) -> dict:
    text, n_updates = depths.text, depths.n_updates
    return {
        "text": text.source.text,
        "line": text.source.line,
        "truncated": text.truncated,
        "tokens": text.tokens,
        "input_ids": text.input_ids,
        "offsets": text.offsets,
        "n_updates": n_updates,
        "remainders": depths.remainders,
        "totals": {
            "tokens": len(n_updates),
            "mean_iterations": sum(n_updates) / len(n_updates),
            "max_iterations": max(n_updates),
            "updates": sum(n_updates),
        },
    }


def _print_bars(runner: Runner, texts: list[TokenizedText], batch_size: int) -> None:
    out = Printer(sys.stdout)
    limit = runner.model.config.num_hidden_layers
    out.line(
        ("model  ", "bold"),
        runner.name,
        " (ships with the package)" if runner.shipped else "",
        f"; at most {limit} iterations; {runner.choice.name} on {runner.device}, "
        f"{runner.precision}",
    )
    totals = Totals(runner.choice.name == "reference")
    for batch in running.batches(texts, batch_size):
        depths = _depths(runner, batch)
        totals.add(depths)
        for one in depths:
            _print_text(out, one, limit)
    summary = totals.as_dict()
    computed, dense = summary["rows_computed"], summary["rows_dense"]
    out.line()
    out.line(
        ("total  ", "bold"),
        f"{_count(totals.texts, 'text')}, {_count(totals.tokens, 'token')}; "
        f"iterations: mean {summary['mean_iterations']:.1f}, max {totals.max_iterations}",
    )
    out.line(
        ("rows   ", "bold"),
        f"{computed} computed of the dense loop's {dense} ({computed / dense:.1%}), "
        f"{_count(batch_size, 'text')} at most in a batch",
    )
    if totals.truncated:
        out.line((f"{_count(totals.truncated, 'text')} cut to the model's length", "yellow"))


def _print_text(out: Printer, depths: TextDepths, limit: int) -> None:
    from rich.cells import cell_len

    text, n_updates = depths.text, depths.n_updates
    out.line()
    out.line((" ".join(text.source.text.split()), "bold"))
    column = max(map(cell_len, text.tokens))
    for token, iterations in zip(text.tokens, n_updates, strict=True):
        pad = " " * (column - cell_len(token))
        length = _BAR_COLUMNS * iterations / limit
        colour = "green" if 3 * iterations <= limit else "yellow"
        out.line(
            f"  {token}{pad} {iterations:>{len(str(limit))}} ",
            (bar(length, sys.stdout), "red" if 3 * iterations > 2 * limit else colour),
        )
    out.line(
        f"  {_count(len(n_updates), 'token')}; iterations: "
        f"mean {sum(n_updates) / len(n_updates):.1f}, max {max(n_updates)}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
