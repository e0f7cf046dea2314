"""`search`: the lines of a file that say what a query says, nearest first."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from albert_act_fast.cli import options, running
from albert_act_fast.cli.errors import CommandError, one_line
from albert_act_fast.cli.output import Printer, allow_any_character, print_json
from albert_act_fast.cli.texts import texts_of_arguments, texts_of_file


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in words.")],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A UTF-8 file, one text a line; - is stdin.")
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="How many lines to show.")] = 5,
    model: Annotated[
        str,
        typer.Option("--model", metavar="DIR|NAME", help="A folder, a hub name, or `sentence`."),
    ] = "sentence",
    implementation: options.ImplementationOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Lines of FILE by the cosine of their embedding with that of QUERY.

    Empty lines are skipped; a line that is longer than the model takes is read in windows.
    """
    (wanted,) = list(texts_of_arguments([query]))
    sources = list(texts_of_file("FILE", file, skip_empty=True))
    encoder = running.load(model, implementation, None, dtype, quantization)
    # Lines and query are pooled alike, so that which pooling it is is the model's affair.
    how = {"pooling": pooling_of(model), "normalize": True, "chunk": True}
    from albert_act_fast import TextError

    try:
        asked = encoder.encode(wanted.text, **how)
        lines = encoder.encode([source.text for source in sources], **how)
    except TextError as error:
        raise CommandError(one_line(error)) from None
    cosines = lines @ asked
    best = (-cosines).argsort(kind="stable")[:top].tolist()
    found = [
        {"line": sources[i].line, "cosine": round(float(cosines[i]), 4), "text": sources[i].text}
        for i in best
    ]
    if as_json:
        print_json({"query": wanted.text, "model": model, "lines": len(sources), "found": found})
        return
    allow_any_character(sys.stdout)
    printer = Printer(sys.stdout)
    for one in found:
        printer.line((f"{one['cosine']:.3f}", "bold"), f"  {one['line']}: {one['text']}")


def pooling_of(model: str) -> str:
    """What the model's folder says, else the mean."""
    from albert_act_fast.shipped import pooling, shipped_model, shipped_models

    if model in shipped_models() and not os.path.exists(model):
        return pooling(shipped_model(model))
    return pooling(model) if os.path.isdir(model) else "mean"
