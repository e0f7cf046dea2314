"""`classify`: the class of each text of a file."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from typing import Annotated

import typer

from albert_act_fast.cli import loading, options, signals, text_formats
from albert_act_fast.cli.errors import CommandError
from albert_act_fast.cli.output import (
    allow_any_character,
    needs_standard_output,
    notice,
    print_json,
    print_json_line,
)
from albert_act_fast.cli.texts import SourceText, texts_of_file

_WINDOW = 256
# It ships.
_DEFAULT_MODEL = "sst2"


def classify(
    input_file: Annotated[
        str, typer.Argument(metavar="INPUT_FILE", help=text_formats.HELP, show_default=False)
    ],
    field: options.FieldOption = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", metavar="DIR|NAME", help="A model with a trained head for classes of texts."
        ),
    ] = _DEFAULT_MODEL,
    implementation: options.ImplementationOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    tokenization: options.TokenizationOption = None,
    threads: options.ThreadsOption = None,
    batch_size: options.BatchSizeOption = None,
    max_iterations: options.MaxIterationsOption = None,
    act_epsilon: options.ActEpsilonOption = None,
    truncate: options.TruncateOption = False,
    skip_empty: options.SkipEmptyOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, at the end.")] = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="One JSON object a text, as they come.")
    ] = False,
) -> None:
    """A line a text: number, label and probability (of a regression the number), with tabs between.

    Lines come as the texts are computed, in their order.
    """
    needs_standard_output()
    if as_json and as_jsonl:
        raise CommandError("--json, --jsonl: got both, expected one of the two")
    texts = texts_of_file("INPUT_FILE", input_file, skip_empty=skip_empty, field=field)
    encoder = loading.load(
        model, implementation, device, dtype, quantization, threads, tokenization
    )
    allow_any_character(sys.stdout)
    waiting: deque[SourceText] = deque()

    def feed() -> Iterator[str]:
        for source in texts:
            waiting.append(source)
            yield source.text

    try:
        encoder._need("classify", "AlbertActForSequenceClassification")
    except ValueError as error:
        raise CommandError(f"--model: {str(error).removeprefix('classify: ')}") from None
    description = loading.describe(model, encoder, max_iterations, act_epsilon)
    with loading.option_errors():
        stream = encoder.classes(
            feed(),
            truncation=truncate,
            batch_size=batch_size,
            max_iterations=max_iterations,
            act_epsilon=act_epsilon,
            window=_WINDOW,
            stops=lambda e: not (skip_empty and e.kind in loading.SKIPPED),
            fail_first=True,
        )
    documents, skipped = [], 0
    with signals.at_work():
        for source, one in _in_place(stream, waiting):
            if one is None:
                skipped += 1
            elif as_jsonl:
                print_json_line(_as_dict(source, one))
            elif as_json:
                documents.append(_as_dict(source, one))
            else:
                label = "" if one.label is None else ",".join(one.labels)
                print(source.line, label, f"{one.score:.4f}", sep="\t")
    skipped += texts.skipped
    if as_json:
        print_json({**description, "skipped": skipped, "texts": documents})
    elif skipped:
        notice(f"{skipped} empty texts left out")


def _in_place(stream, waiting: deque[SourceText]):
    from albert_act_fast.text import TextError

    taken = 0
    try:
        for one in stream:
            taken += 1
            yield waiting.popleft(), None if isinstance(one, TextError) else one
    except TextError as error:
        raise loading.text_error(error, waiting[error.index - taken]) from None
    finally:
        stream.close()


def _as_dict(source: SourceText, one) -> dict:
    return {
        "line": source.line,
        "text": one.text,
        "label": one.label,
        "labels": one.labels,
        "score": one.score,
        "scores": one.scores,
        "truncated": one.cost.truncated,
        "tokens": one.cost.tokens,
        "mean_iterations": one.cost.mean_iterations,
    }
