"""`report`: the model card's table of depths from files of texts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from albert_act_fast.cli import loading, options, signals, text_formats
from albert_act_fast.cli.depth_pictures import HtmlOption, check_place
from albert_act_fast.cli.errors import FAILURE, CommandError, file_error, one_line
from albert_act_fast.cli.output import (
    Printer,
    allow_any_character,
    needs_standard_output,
    print_json,
)
from albert_act_fast.cli.texts import texts_of_file

if TYPE_CHECKING:
    from albert_act_fast.depth.report import DepthReport


def report(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help=text_formats.HELP, show_default=False)
    ],
    field: options.FieldOption = None,
    model: options.ModelOption = None,
    implementation: options.ImplementationOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    tokenization: options.TokenizationOption = None,
    threads: options.ThreadsOption = None,
    mask_share: Annotated[
        float,
        typer.Option("--mask-share", min=0, max=1, help="Of a text's tokens; as in pre-training."),
    ] = 0.15,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the masking.")] = 0,
    spacy_model: Annotated[
        str | None,
        typer.Option(
            "--spacy-model",
            metavar="NAME|DIR",
            help="Also a table by word class, as this spaCy pipeline tells them: en_core_web_sm.",
            show_default="no such table",
        ),
    ] = None,
    html: HtmlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Mean iterations of tokens by masking, class, position and frequency, and on request by word
    class, with 95 % intervals; beside them what the published models' card says.

    Each line is a text; one that is longer than the model takes is read in windows. Lines without a
    token that the model knows are left out and counted.
    """
    needs_standard_output()
    if html is not None:
        check_place("--html", html)
    pipeline = None if spacy_model is None else _pipeline(spacy_model)
    opened = [texts_of_file("FILE", file, skip_empty=True, field=field) for file in files]
    encoder = loading.load(
        model, implementation, device, dtype, quantization, threads, tokenization
    )
    name = loading.DEFAULT_MODEL if model is None else model

    from albert_act_fast.depth.report import depth_report
    from albert_act_fast.text import TextError

    def texts() -> Iterator[str]:
        for file in opened:
            for source in file:
                yield source.text

    with signals.at_work(), _progress() as on_text:
        try:
            found = depth_report(
                encoder,
                texts(),
                mask_share=mask_share,
                seed=seed,
                spacy_model=pipeline,
                on_text=on_text,
            )
        except TextError as error:
            raise CommandError(f"FILE: text {error.index + 1}: {error.reason}", FAILURE) from None
        except ValueError as error:
            if str(error).startswith("texts:"):
                raise CommandError(f"FILE: {one_line(error)}") from None
            with loading.option_errors():
                raise
    description = loading.describe(name, encoder)
    if html is not None:
        from albert_act_fast.depth.report_page import save_report

        try:
            save_report(found, html, title=f"Depths of {name}")
        except OSError as error:
            raise file_error("--html", html, error, "written", FAILURE) from None
    if as_json:
        print_json({**description, "files": files, **found.as_dict()})
    else:
        _print(found, name)


def _pipeline(name: str):
    from albert_act_fast.depth.word_classes import load_pipeline

    try:
        with loading.option_errors():
            return load_pipeline(name)
    except ImportError as error:
        raise CommandError(str(error).replace("spacy_model", "--spacy-model", 1)) from None


def _print(found: DepthReport, name: str) -> None:
    from albert_act_fast.depth.report import PUBLISHED

    allow_any_character(sys.stdout)
    out = Printer(sys.stdout)
    out.line(
        ("model  ", "bold"),
        f"{name}; {found.texts} texts, {found.tokens} tokens; at most {found.limit} iterations",
    )
    width = max(len(group.name) for groups in found.tables.values() for group in groups)
    for title, groups in found.tables.items():
        out.line()
        head = f"{title:<{width}}{'tokens':>12}{'mean':>8}  {'95 % interval':<16}"
        if title == "masking":
            head += "published tiny / small / base"
        out.line((head.rstrip(), "bold"))
        for group in groups:
            line = f"{group.name:<{width}}{group.tokens:>12}{group.mean:>8.2f}  "
            between = "" if group.low is None else f"{group.low:.2f} to {group.high:.2f}"
            line += f"{between:<16}"
            if title == "masking":
                line += " / ".join(f"{mean:.1f}" for mean in PUBLISHED[group.name])
            out.line(line.rstrip())
    if found.word_classes_by is not None:
        out.line()
        out.line(f"word classes by spaCy's {found.word_classes_by}")
    if found.skipped:
        out.line()
        out.line((f"{found.skipped} texts left out", "yellow"))


@contextmanager
def _progress():
    from rich.console import Console
    from rich.progress import Progress

    visible = sys.stderr is not None and sys.stderr.isatty()
    if not visible:
        yield None
        return
    with Progress(console=Console(file=sys.stderr), transient=True) as progress:
        bar = progress.add_task("texts", total=None)
        yield lambda: progress.advance(bar)
