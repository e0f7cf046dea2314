"""`search`: the lines of a file that say what a query says, nearest first."""

from __future__ import annotations

import heapq
import sys
from collections import deque
from collections.abc import Iterator
from typing import Annotated

import typer

from albert_act_fast.cli import loading, options, signals, text_formats
from albert_act_fast.cli.output import (
    Printer,
    allow_any_character,
    needs_standard_output,
    notice,
    print_json,
)
from albert_act_fast.cli.texts import SourceText, texts_of_arguments, texts_of_file


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in words.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help=text_formats.HELP)],
    field: options.FieldOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many lines to show.")] = 5,
    model: Annotated[
        str,
        typer.Option("--model", metavar="DIR|NAME", help="A folder, a hub name, or `sentence`."),
    ] = "sentence",
    implementation: options.ImplementationOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    tokenization: options.TokenizationOption = None,
    threads: options.ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Lines of FILE by the cosine of their embedding with that of QUERY.

    Empty lines, and those that the model knows no token of, are skipped and counted; a line that
    is longer than the model takes is read in windows.
    """
    needs_standard_output()
    (wanted,) = list(texts_of_arguments([query]))
    texts = texts_of_file("FILE", file, skip_empty=True, field=field)
    encoder = loading.load(
        model, implementation, device, dtype, quantization, threads, tokenization
    )
    from albert_act_fast.text import TextError

    waiting: deque[SourceText] = deque()

    def feed() -> Iterator[str]:
        for source in texts:
            waiting.append(source)
            yield source.text

    # Lines and query are pooled alike, so that which pooling it is is the model's affair.
    how = {"normalize": True, "chunk": True}
    count = skipped = 0
    # The nearest so far, the farthest of them first; of equals the first line stays.
    nearest: list[tuple[float, int, str]] = []
    with signals.at_work():
        try:
            asked = encoder.encode(wanted.text, **how)
        except TextError as error:
            raise loading.text_error(error, wanted) from None
        for one in encoder.stream(feed(), errors="collect", **how):
            source = waiting.popleft()
            if isinstance(one, TextError):
                if one.kind not in loading.SKIPPED:
                    raise loading.text_error(one, source)
                skipped += 1
                continue
            count += 1
            entry = (float(one.embedding @ asked), -source.line, source.text)
            if len(nearest) < top:
                heapq.heappush(nearest, entry)
            else:
                heapq.heappushpop(nearest, entry)
    found = [
        {"line": -line, "cosine": round(cosine, 4), "text": text}
        for cosine, line, text in sorted(nearest, reverse=True)
    ]
    skipped += texts.skipped
    if as_json:
        document = {"query": wanted.text, "model": model, "lines": count, "skipped": skipped}
        print_json({**document, "found": found})
        return
    allow_any_character(sys.stdout)
    printer = Printer(sys.stdout)
    for one in found:
        printer.line((f"{one['cosine']:.3f}", "bold"), f"  {one['line']}: {one['text']}")
    if skipped:
        notice(f"{skipped} empty texts left out")
