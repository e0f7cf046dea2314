"""A corpus, from its texts to their embeddings: `TextEncoder.stream` beside batches of a fixed
number of texts, and beside peers of fixed depth.

Everything counts that lies between the two, tokenising too. The corpus is cut into parts of a
window of the stream or more, and all ways take a part each in turn, so that a drifting machine hits
all of them alike. Ways that are many times slower take fewer texts, and their rows say how many.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from albert_act_fast import AlbertActModel, TextEncoder
from albert_act_fast.tokenizer import load_tokenizer
from suite import peers
from suite.cases import Case
from suite.gate import FLOAT32_ERROR, PEER_ERROR, rms, rounded
from suite.inputs import Batch, corpus_texts, sentence_batch
from suite.memory import stream_peaks
from suite.models import model_folder, model_of
from suite.timing import MACHINE_CLOCK, Clock
from suite.variants import in_dtype

# By size of the model.
SIZES = {"base": 20_000, "shipped": 20_000}
STREAMED = (20_000, 50_000, 100_000, 200_000)
PART = 4096
# Of whom nothing is asked but a figure to compare with.
SLOW_SHARE = 0.04
CHECKED = 48
STREAM = "TextEncoder.stream"
BATCHES_AS_THEY_COME = (8, 32)
BATCHES_BY_LENGTH = (8, 16, 32, 64, 128)

Embed = Callable[[list[str]], np.ndarray]  # embeddings [n, H] of n texts


@dataclass(frozen=True)
class Way:
    """One way to embed the corpus.

    Args:
        name: who and in which dtype.
        prepare: the folder of a model and its tokenizer, and one for files; gives what embeds.
        batch: texts that it computes at once; None where it decides that itself.
        by_length: whether the corpus was sorted by length for it, which no time is counted for.
        adaptive: whether tokens halt.
        share: of the corpus that it takes.
    """

    name: str
    prepare: Callable[[Path, Path], Embed]
    batch: int | None = None
    by_length: bool = False
    adaptive: bool = True
    share: float = 1.0
    why_not: Callable[[str], str | None] = lambda device: None

    @property
    def dtype(self) -> str:
        return self.name.rsplit(" ", 1)[1]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(torch.float32)
    return (hidden.float() * weights).sum(1) / weights.sum(1)


def _in_batches(size: int, embed: Callable[[Batch], Tensor]) -> Embed:
    """Texts as they come, so many at a time, padded to the longest of them."""
    tokenizer = load_tokenizer()

    def run(texts: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(texts), size):
            some = texts[start : start + size]
            encoded = tokenizer(some, padding=True, truncation=True, return_tensors="pt")
            batch = Batch(encoded["input_ids"], encoded["attention_mask"], "")
            with torch.inference_mode():
                found.append(_mean(embed(batch), batch.attention_mask))
        return torch.cat(found).numpy()

    return run


def _load(folder: Path, dtype: str) -> AlbertActModel:
    model = AlbertActModel.from_pretrained(folder, dtype=torch.float32).eval()
    return in_dtype(model, dtype)


def _stream(dtype: str) -> Way:
    def prepare(folder: Path, files: Path) -> Embed:
        encoder = TextEncoder(_load(folder, dtype), load_tokenizer())

        def run(texts: list[str]) -> np.ndarray:
            rows = encoder.stream(texts, pooling="mean", truncation=True)
            return np.stack([row.embedding for row in rows])

        return run

    return Way(f"{STREAM} {dtype}", prepare)


def _model(size: int, dtype: str, *, by_length: bool = False, implementation: str = "cpp") -> Way:
    def prepare(folder: Path, files: Path) -> Embed:
        model = _load(folder, dtype)

        def embed(batch: Batch) -> Tensor:
            out = model(batch.input_ids, batch.attention_mask, implementation=implementation)
            return out.last_hidden_state

        return _in_batches(size, embed)

    order = "by length" if by_length else "as they come"
    name, share = f"model, batches of {size} {order}, {dtype}", 1.0
    if implementation == "reference":
        name, share = f"reference, batches of {size} {order}, {dtype}", SLOW_SHARE
    return Way(name, prepare, size, by_length, share=share)


def _sentence_transformer(dtype: str) -> Way:
    def prepare(folder: Path, files: Path) -> Embed:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        from albert_act_fast.text.sentence_transformers import AlbertActTransformer

        transformer = AlbertActTransformer(str(folder))
        transformer.model.config.implementation = "reference"
        pooling = Pooling(transformer.model.config.hidden_size, "mean")
        library = SentenceTransformer(modules=[transformer, pooling], device="cpu")
        library = library.to(getattr(torch, dtype))
        return lambda texts: library.encode(texts, show_progress_bar=False)

    return Way(
        f"SentenceTransformer over the plain loop, {dtype}",
        prepare,
        share=SLOW_SHARE,
        why_not=lambda device: peers.not_installed("sentence_transformers"),
    )


def _peer(name: str, size: int) -> Way:
    (peer,) = (peer for peer in peers.PEERS if peer.name == name)
    library, dtype = name.rsplit(" ", 1)

    def prepare(folder: Path, files: Path) -> Embed:
        example = sentence_batch(size, "mixed")
        return _in_batches(size, peer.prepare(_load(folder, "float32"), example, files, True))

    return Way(
        f"{library}, batches of {size} by length, {dtype}",
        prepare,
        size,
        by_length=True,
        adaptive=False,
        share=SLOW_SHARE,
        why_not=peer.why_not,
    )


WAYS = (
    *(_stream(dtype) for dtype in ("float32", "bfloat16", "int8")),
    *(_model(size, "bfloat16") for size in BATCHES_AS_THEY_COME),
    *(_model(size, "bfloat16", by_length=True) for size in BATCHES_BY_LENGTH),
    *(_model(32, dtype, implementation="reference") for dtype in ("float32", "bfloat16")),
    *(_sentence_transformer(dtype) for dtype in ("float32", "bfloat16")),
    *(
        _peer(f"{library} {dtype}", size)
        for library, dtypes in (
            ("HF SDPA", ("bfloat16",)),
            ("ONNX Runtime", ("float32", "int8")),
            ("OpenVINO", ("bfloat16", "int8")),
        )
        for dtype in dtypes
        for size in (8, 32)
    ),
)


def corpus_rows(
    folder: Path,
    size: str = "base",
    advance: Callable[[], None] = lambda: None,
    *,
    sentences: int,
    ways: Sequence[Way] = WAYS,
    clock: Clock = MACHINE_CLOCK,
) -> list[dict]:
    """A row for each way: texts a second.

    Args:
        folder: where models are kept.
        size: as in `Case`.
        advance: called `steps(sentences, ways)` times.
    """
    case = Case(size, "corpus", sentences)
    model = model_of(case, folder)
    kept = model_folder(case, folder)
    tokenizer = load_tokenizer()
    tokenizer.save_pretrained(kept)
    texts, source = corpus_texts(sentences)
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True)["input_ids"]]
    by_length = [texts[index] for index in sorted(range(sentences), key=lengths.__getitem__)]
    parts = max(1, sentences // PART)
    about = {"kind": "corpus", "case": f"{size}, {sentences} sentences", "text": source}
    gate = _Gate(model, texts[:CHECKED])
    rows, runs = [], {}
    for way in ways:
        rows.append({**about, "variant": way.name, "dtype": way.dtype})
        reason = way.why_not("cpu")
        if reason is None:
            embed = way.prepare(kept, kept)  # files beside the model that they are of
            error = gate.error(way, embed(texts[:CHECKED]))
            rows[-1]["error"] = error
            if not error <= (limit := gate.limit(way)):
                rows[-1]["wrong"] = f"error {error:.1e}, at most {limit:.1e} expected"
            else:
                runs[way.name] = (way, embed, _cut(way, texts, by_length, parts))
        else:
            rows[-1]["skipped"] = reason
        advance()
    seconds, chooser, names = dict.fromkeys(runs, 0.0), random.Random(0), list(runs)
    for part in range(parts):
        chooser.shuffle(names)
        for name in names:
            way, embed, cut = runs[name]
            if part < len(cut):
                start = clock.now()
                embed(cut[part])
                seconds[name] += clock.now() - start
            advance()
    for row in rows:
        if (name := row["variant"]) in runs:
            count = sum(map(len, runs[name][2]))
            row |= {"sentences": count, "texts_a_second": count / seconds[name]}
    return rows


def steps(sentences: int, ways: Sequence[Way] = WAYS) -> int:
    """How often `corpus_rows` calls `advance`, at most."""
    return len(ways) * (1 + max(1, sentences // PART))


def memory_rows(effort: float = 1.0) -> list[dict]:
    """Peak memory of a process by how many texts it has embedded, as rows."""
    counts = [max(1, round(effort * count)) for count in STREAMED]
    peaks = stream_peaks(counts) or {}
    about = {"kind": "corpus memory", "case": "shipped, a stream", "variant": f"{STREAM} float32"}
    return [
        {**about, "sentences": count, "peak_memory": peak} for count, peak in sorted(peaks.items())
    ]


def _cut(way: Way, texts: list[str], by_length: list[str], parts: int) -> list[list[str]]:
    """The way's texts of each part; of sorted ones, batches from everywhere."""
    chosen = texts
    if way.by_length:
        batches = [by_length[i : i + way.batch] for i in range(0, len(texts), way.batch)]
        # One that is not full can only be the last.
        last = [batches.pop()] if len(batches[-1]) < way.batch else []
        random.Random(0).shuffle(batches)
        chosen = [text for batch in batches + last for text in batch]
    count = max(CHECKED, round(way.share * len(texts)))
    size = -(-len(texts) // parts)
    if way.batch:
        size = -(-size // way.batch) * way.batch
    return [chosen[start : min(start + size, count)] for start in range(0, count, size)]


class _Gate:
    """What embeddings may be off by: see `suite.gate`."""

    def __init__(self, model: AlbertActModel, texts: list[str]):
        self._model, self._texts = model, texts
        self._exact = {True: self._plain(model), False: self._fixed()}

    def error(self, way: Way, found: np.ndarray) -> float:
        """Root mean square."""
        return rms(torch.from_numpy(found).float() - self._exact[way.adaptive])

    def limit(self, way: Way) -> float:
        if not way.adaptive:
            return PEER_ERROR[way.dtype]
        if way.dtype == "float32":
            return FLOAT32_ERROR
        int8 = way.dtype == "int8"
        model = rounded(self._model) if int8 else in_dtype(self._model, way.dtype)
        return 2 * rms(self._plain(model) - self._exact[True]) + FLOAT32_ERROR

    def _plain(self, model: AlbertActModel) -> Tensor:
        def embed(batch: Batch) -> Tensor:
            out = model(batch.input_ids, batch.attention_mask, implementation="reference")
            return out.last_hidden_state

        return torch.from_numpy(_in_batches(CHECKED, embed)(self._texts))

    def _fixed(self) -> Tensor:
        embed = _in_batches(CHECKED, lambda batch: peers.fixed_depth(self._model, batch))
        return torch.from_numpy(embed(self._texts))
