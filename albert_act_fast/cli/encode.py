"""`encode`: embeddings of the lines of a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from albert_act_fast.cli import embeddings_file, options, running
from albert_act_fast.cli.errors import CommandError
from albert_act_fast.cli.output import notice, print_json
from albert_act_fast.cli.running import Runner, TokenizedText
from albert_act_fast.cli.texts import texts_of_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from albert_act_fast.outputs import AlbertActModelOutput


class Pooling(str, Enum):
    """How a text's states become one embedding."""

    CLS = "cls"
    MEAN = "mean"
    POOLER = "pooler"


def encode(
    input_file: Annotated[
        str, typer.Argument(metavar="INPUT_FILE", help="A UTF-8 file, one text a line; - is stdin.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help=embeddings_file.HELP)
    ],
    pooling: Annotated[
        Pooling,
        typer.Option(
            "--pooling",
            help="cls: the state of [CLS]; mean: of all tokens, [CLS] and [SEP] included; "
            "pooler: the model's pooler_output.",
        ),
    ] = Pooling.CLS,
    model: options.ModelOption = None,
    implementation: options.ImplementationOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = options.Dtype.FLOAT32,
    quantization: options.QuantizationOption = None,
    batch_size: options.BatchSizeOption = 32,
    truncate: options.TruncateOption = False,
    skip_empty: options.SkipEmptyOption = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT if it exists.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Describe what was written on stdout.")
    ] = False,
) -> None:
    """One embedding (float32) a line, in the order of the lines."""
    writer = embeddings_file.writer_for(output)
    if output.exists() and input_file != "-" and Path(input_file).exists():
        _refuse_same_file(Path(input_file), output)
    with embeddings_file.replacing(output, force=force) as partial:
        sources = texts_of_file("INPUT_FILE", input_file, skip_empty=skip_empty)
        runner = running.load(model, implementation, device, dtype, quantization)
        if pooling is Pooling.POOLER and not runner.has_pooler:
            raise CommandError(
                f"--pooling: got 'pooler', expected cls or mean: {model} has no pooler weights"
            )
        texts = runner.tokenize(sources, truncate=truncate)
        embeddings, updates = _embed(runner, texts, pooling, batch_size)
        description = {**runner.describe(), "pooling": pooling.value, "batch_size": batch_size}
        writer(partial, embeddings, texts, description)
    tokens = sum(len(t.input_ids) for t in texts)
    totals = {
        "texts": len(texts),
        "truncated": sum(t.truncated for t in texts),
        "tokens": tokens,
        "mean_iterations": updates / tokens,
    }
    if as_json:
        print_json({**description, "output": str(output), "totals": totals})
    notice(
        f"wrote {output}: {len(texts)} x {embeddings.shape[1]}, {pooling.value} pooling, "
        f"{totals['mean_iterations']:.1f} iterations a token"
        + (f", {totals['truncated']} texts cut" if totals["truncated"] else "")
    )


def _refuse_same_file(input_file: Path, output: Path) -> None:
    if input_file.samefile(output):
        raise CommandError(f"--output: got {str(output)!r}, which is INPUT_FILE itself")


def _embed(
    runner: Runner, texts: Sequence[TokenizedText], pooling: Pooling, batch_size: int
) -> tuple[np.ndarray, int]:
    """float32 [texts, H] in the order given, and the sum of all tokens' iterations."""
    import numpy as np
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    embeddings = np.empty((len(texts), runner.model.config.hidden_size), dtype=np.float32)
    # Texts of like length pad each other least. The longest come first: what does not fit into
    # memory fails before work is done.
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].input_ids))
    updates = 0
    console = Console(file=sys.stderr, force_terminal=sys.stderr.isatty())
    columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), Elapsed(), Remaining())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("texts", total=len(texts))
        for batch in running.batches(order, batch_size):
            out = runner.run([texts[i] for i in batch])
            pooled = _pool(out, pooling).float().cpu()
            runner.refuse_not_finite(pooled, [texts[i] for i in batch])
            embeddings[batch] = pooled.numpy()
            updates += int(out.n_updates.sum().item())
            progress.advance(task, len(batch))
    return embeddings, updates


def _pool(out: AlbertActModelOutput, pooling: Pooling) -> Tensor:
    """[B, H]; padding is 0 in states and updates, and every token has at least one update."""
    if pooling is Pooling.POOLER:
        return out.pooler_output
    if pooling is Pooling.CLS:
        return out.last_hidden_state[:, 0]
    tokens = (out.n_updates > 0).sum(dim=1, keepdim=True)
    return out.last_hidden_state.float().sum(dim=1) / tokens
