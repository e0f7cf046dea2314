"""`encode`: embeddings of the texts of a file."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from albert_act_fast.cli import embeddings_file, loading, options, signals, text_formats
from albert_act_fast.cli.errors import FAILURE, CommandError, file_error
from albert_act_fast.cli.output import needs_standard_output, notice, print_json
from albert_act_fast.cli.part import Part
from albert_act_fast.cli.texts import SourceText, Texts, same_file, texts_of_file

if TYPE_CHECKING:
    import numpy as np

    from albert_act_fast import TextEncoder


# Texts in a window: sorted by length together, and what a run that is killed loses at most.
_WINDOW = 4096


class Pooling(str, Enum):
    """How a text's states become one embedding."""

    CLS = "cls"
    MEAN = "mean"
    POOLER = "pooler"


PoolingOption = Annotated[
    Pooling | None,
    typer.Option(
        "--pooling",
        help="mean: of all tokens' states, [CLS] and [SEP] included; cls: the state of [CLS]; "
        "pooler: the model's pooler_output.",
        show_default="what the model's 1_Pooling/config.json says, else mean",
    ),
]


def encode(
    input_file: Annotated[
        str, typer.Argument(metavar="INPUT_FILE", help=text_formats.HELP, show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help=embeddings_file.HELP)
    ],
    field: options.FieldOption = None,
    pooling: PoolingOption = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Divide each embedding by its norm.")
    ] = False,
    model: options.ModelOption = None,
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
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT if it exists.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run to OUT that was cut off.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Describe what was written on stdout.")
    ] = False,
) -> None:
    """One embedding (float32) a text, in the order of the texts.

    Texts are read, and embeddings written, as they come, to the folder OUT.part; OUT appears when
    all is complete. A run that is cut off leaves OUT.part, and --resume goes on with it.
    """
    if as_json:
        needs_standard_output("--json")
    writer_class = embeddings_file.writer_for(output)
    if same_file(input_file, output):
        raise CommandError(f"--output: got {str(output)!r}, which is INPUT_FILE itself")
    part = Part(output, force=force, resume=resume)
    with contextlib.ExitStack() as stack:
        stack.callback(part.close)
        stack.callback(part.tidy)
        stack.enter_context(signals.tidied(part.tidy))
        if part.discarded:
            notice(
                f"starting anew; {part.discarded} texts of a run that was cut off are dropped "
                "(--resume would have gone on with it)"
            )
        texts = texts_of_file("INPUT_FILE", input_file, skip_empty=skip_empty, field=field)
        encoder = loading.load(
            model, implementation, device, dtype, quantization, threads, tokenization
        )
        name = loading.DEFAULT_MODEL if model is None else model
        settings = {
            "pooling": encoder.pooling if pooling is None else pooling.value,
            "normalize": normalize,
            "max_iterations": max_iterations,
            "act_epsilon": act_epsilon,
        }
        job = _Job(encoder, part, texts, writer_class, settings, batch_size, field)
        stack.callback(job.writer.close)
        description = {
            **loading.describe(name, encoder, max_iterations, act_epsilon),
            "pooling": settings["pooling"],
            "normalize": normalize,
            "batch_size": batch_size,
        }
        try:
            with signals.at_work():
                job.run(input_file, truncate, skip_empty)
                totals = job.totals()
                job.finish({**description, "totals": totals})
        except CommandError as error:
            kept = part.kept()
            raise CommandError(f"{error}; {kept}" if kept else str(error), error.status) from error
        except (KeyboardInterrupt, signals.Stopped):
            notice(f"interrupted; {part.kept() or 'nothing was done yet'}")
            raise
    if as_json:
        totals = {**totals, "resumed_at": job.resumed}
        print_json({**description, "output": str(output), "totals": totals})
    notice(
        f"wrote {output}: {job.writer.rows} x {encoder.embedding_dimension}, {settings['pooling']} "
        f"pooling, {totals['mean_iterations']:.1f} iterations a token"
        + (f", {totals['truncated']} texts cut" if totals["truncated"] else "")
        + (f", {totals['skipped']} empty texts left out" if totals["skipped"] else "")
    )


class _Job:
    """One run, or the rest of one."""

    def __init__(
        self, encoder: TextEncoder, part, texts, writer_class, settings, batch_size, field
    ):
        self.encoder, self.part, self.texts = encoder, part, texts
        self.settings, self.batch_size = settings, batch_size
        # What makes another result; what only fails or leaves out more or less is not in it.
        self.made_of = _digest_of_model(encoder, {**settings, "field": field})
        note = part.note
        if note is not None and note["made_of"] != self.made_of:
            raise CommandError(
                f"--resume: {part.path} was begun with another model, tokenizer or options; "
                "expected the same command (without --resume it starts anew)"
            )
        self.writer = writer_class(
            part.path, encoder.embedding_dimension, None if note is None else note["writer"]
        )
        self.count = {"texts": 0, "tokens": 0, "rows": 0, "truncated": 0, "skipped": 0}
        self.count |= {} if note is None else note["count"]
        self.resumed = self.count["texts"]
        self._digest = hashlib.blake2b()
        self._waiting: deque[SourceText] = deque()
        self._done: list[tuple[SourceText, np.ndarray]] = []

    def run(self, input_file: str, truncate: bool, skip_empty: bool) -> None:
        """Writes all embeddings; what is complete stays noted, however this ends."""
        self._pass_over(input_file)
        self._reserve(input_file)
        settings = self.encoder._settings(
            batch_size=self.batch_size,
            window=_WINDOW,
            stops=lambda e: not (skip_empty and e.kind in loading.SKIPPED),
            fail_first=True,
            on_window=self._write,
        )
        choice = self.encoder._options(False, truncate)
        with loading.option_errors():
            work = self.encoder._embedding_work(choice, **self.settings)
        from albert_act_fast.text import pipeline

        stream = pipeline.run(self._feed(), work, settings)
        try:
            self._take(stream)
        finally:
            stream.close()

    def totals(self) -> dict:
        """Sums over all texts, of runs before this one too."""
        count = self.count
        return {
            "texts": self.writer.rows,
            "skipped": count["skipped"] + self.texts.skipped,
            "truncated": count["truncated"],
            "tokens": count["tokens"],
            "mean_iterations": count["rows"] / max(count["tokens"], 1),
        }

    def finish(self, description: dict) -> None:
        """The complete file, in its place."""
        if not self.writer.rows:
            raise CommandError("INPUT_FILE: holds no text that the model knows")
        try:
            path = self.writer.finish(description)
        except OSError as error:
            raise file_error("--output", self.part.output, error, "written", FAILURE) from None
        self.part.finish(path)

    def _pass_over(self, input_file: str) -> None:
        """What a run before has done, if the texts are still the same."""
        note = self.part.note
        if note is None:
            return
        for source in itertools.islice(iter(self.texts), self.resumed):
            self._note_digest(source)
        if self._digest.hexdigest() != note["digest"]:
            raise CommandError(
                f"--resume: the first {self.resumed} texts of {input_file} are not those that "
                f"{self.part.path} was made from (without --resume it starts anew)"
            )

    def _note_digest(self, source: SourceText) -> None:
        self._digest.update(f"{source.line}:{len(source.text)}:".encode())
        self._digest.update(source.text.encode("utf-8", "surrogatepass"))

    def _reserve(self, input_file: str) -> None:
        rows = _rows_at_most(input_file, self.texts)
        if rows is None:
            return
        try:
            self.writer.reserve(rows)
        except OSError as error:
            raise file_error("--output", self.part.output, error, "written", FAILURE) from None

    def _feed(self) -> Iterator[str]:
        for source in self.texts:
            self._waiting.append(source)
            yield source.text

    def _take(self, stream) -> None:
        from albert_act_fast.text import TextError
        from albert_act_fast.text.progress import ProgressBar

        with ProgressBar(None, self.texts.total) as bar:
            before = 0.0
            try:
                for one in stream:
                    source = self._waiting.popleft()
                    self.count["texts"] += 1
                    self._note_digest(source)
                    if isinstance(one, TextError):
                        self.count["skipped"] += 1
                        continue
                    self._done.append((source, one.embedding))
                    self.count["tokens"] += one.cost.tokens
                    self.count["rows"] += one.cost.rows
                    self.count["truncated"] += one.cost.truncated
                    # Reading runs ahead by a window; it is shown as it is.
                    bar.advance(self.texts.done - before, one.cost.tokens, one.cost.rows)
                    before = self.texts.done
            except TextError as error:
                index = error.index + self.resumed - self.count["texts"]
                raise loading.text_error(error, self._waiting[index]) from None

    def _write(self) -> None:
        """A window is done: it is written and noted."""
        import numpy as np

        if self._done:
            sources, rows = zip(*self._done, strict=True)
            self._done = []
            try:
                self.writer.append(sources, np.stack(rows).astype("<f4", copy=False))
            except OSError as error:
                raise file_error("--output", self.part.output, error, "written", FAILURE) from None
        try:
            self.part.checkpoint(
                {
                    "made_of": self.made_of,
                    "texts": self.count["texts"],
                    "count": dict(self.count),
                    "digest": self._digest.hexdigest(),
                    "writer": self.writer.note(),
                }
            )
        except OSError as error:
            raise file_error("--output", self.part.output, error, "written", FAILURE) from None


def _digest_of_model(encoder: TextEncoder, settings: dict) -> str:
    """Of all that makes an embedding what it is."""
    import torch

    digest = hashlib.blake2b()
    for name, tensor in sorted(encoder._frozen.model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    config = encoder.config.to_dict()
    for volatile in ("_name_or_path", "transformers_version"):
        config.pop(volatile, None)
    about = [config, settings, encoder.implementation, str(encoder.dtype)]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    digest.update(_state_of(encoder.tokenizer, encoder._tokenizer._backend))
    return digest.hexdigest()


def _state_of(tokenizer, backend) -> bytes:
    """All that decides how a tokenizer cuts, and nothing of where it lies."""
    if backend is not None:
        return backend.to_str().encode()
    settings = {
        name: value
        for name, value in tokenizer.init_kwargs.items()
        if not name.startswith("_") and not name.endswith(("_file", "_path"))
    }
    about = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), settings]
    state = json.dumps(about, sort_keys=True, default=str).encode()
    pieces = getattr(tokenizer, "sp_model", None)  # whose scores are in no vocabulary
    return state if pieces is None else state + pieces.serialized_model_proto()


def _rows_at_most(input_file: str, texts: Texts) -> int | None:
    """How many texts a file of lines holds, so that the disk can be asked for space before the
    work; None where that would take long to know."""
    if input_file == "-" or input_file.lower().endswith((".gz", ".zst")):
        return None
    if text_formats.kind_of(input_file) == "parquet":
        return None if texts.total is None else int(texts.total)
    if not os.path.isfile(input_file):  # a pipe can be read but once
        return None
    with contextlib.suppress(OSError), open(input_file, "rb") as file:
        count = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        return count + 1
    return None
