"""`TextEncoder`: a model and its tokenizer as one object, from texts to embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from albert_act_fast.text import pipeline
from albert_act_fast.text.base import WINDOW_TEXTS, FrozenEncoder, one_of
from albert_act_fast.text.compute import POOLINGS, PackedBatch, encode_packed, row_of
from albert_act_fast.text.errors import TextError
from albert_act_fast.text.progress import ProgressBar
from albert_act_fast.text.results import EncodeResult, TextCost, TextEmbedding
from albert_act_fast.text.tasks import TextTasks
from albert_act_fast.text.tokenize import TokenizedText, TokenizeOptions


class TextEncoder(FrozenEncoder, TextTasks):
    """Texts to embeddings, classes and depths, any amount of them, in bounded memory.

    The encoder owns its weights: a model that is handed over is copied, so that what happens to it
    afterwards does not reach the encoder. It may be used from several threads (their batches are
    computed one after the other), pickled, and used in a process that was forked, which then
    computes with one thread and says so.

    Results are the model's own, text by text, whatever stands beside a text. Batches are made of
    texts of like length; what a text's neighbours are changes no bit where `batch_invariant` says
    so, and only the rounding elsewhere.
    """

    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        pooling: str | None = None,
        normalize: bool = False,
        show_progress: bool | None = None,
        batch_tokens: int | None = None,
        output: str = "numpy",
        truncation: bool = False,
        chunk: bool = False,
        chunk_overlap: int | None = None,
        errors: str = "raise",
        details: bool = False,
        max_iterations: int | None = None,
        act_epsilon: float | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool | None = None,
        convert_to_tensor: bool | None = None,
        normalize_embeddings: bool | None = None,
    ) -> np.ndarray | torch.Tensor | EncodeResult:
        """Embeddings of texts, in their order: float32 [n, H]; of one string, [H].

        Args:
            sentences: a string, or any iterable of strings.
            pooling: "mean" of all tokens' states, [CLS] and [SEP] included; "cls", the state of
                the first token; "pooler", the model's pooler_output. Default, what the model's
                folder says (1_Pooling/config.json, as sentence-transformers writes it), else
                "mean".
            normalize: divide each embedding by its Euclidean norm.
            show_progress: a progress bar on stderr; None, on a terminal after two seconds.
            batch_tokens: most tokens in a batch (at least one text); default 2048 on a CPU.
            output: "numpy", or "torch", a tensor on the CPU.
            truncation: cut a text that is too long for the model; else it is an error.
            chunk: split it into windows instead; its embedding is the mean of theirs, each
                weighted by its number of tokens of the text.
            chunk_overlap: tokens that a window repeats of the one before; default 64, or half of
                a window that is shorter than 128.
            errors: "raise" raises at the first text that has no embedding; "collect" goes on and
                returns an EncodeResult that lists them.
            details: return an EncodeResult also with `errors="raise"`.
            max_iterations: fewer iterations than the model's own limit; exact for that rule.
            act_epsilon: another halting threshold than the model's; exact for that rule.
            batch_size: most texts in a batch besides.
            show_progress_bar, convert_to_numpy, convert_to_tensor, normalize_embeddings: as
                SentenceTransformer names show_progress, output and normalize.

        Raises:
            TextError: a text has no embedding; its `computed` holds the EncodeResult so far.
            ValueError, TypeError: an argument is not what it should be.
        """
        show_progress = _same("show_progress", show_progress, show_progress_bar)
        normalize = _same("normalize", normalize, normalize_embeddings)
        if convert_to_tensor is not None or convert_to_numpy is not None:
            output = "torch" if convert_to_tensor or convert_to_numpy is False else "numpy"
        one_of("output", output, ("numpy", "torch"))
        single = isinstance(sentences, str)
        if single and errors == "raise" and not (details or chunk or show_progress):
            others = (chunk_overlap, batch_tokens, batch_size, max_iterations, act_epsilon)
            if all(setting is None for setting in others):
                row = self._encode_one(sentences, pooling, normalize)
                if row is not None:
                    return torch.from_numpy(row) if output == "torch" else row
        texts = _list(sentences)
        found = np.full((len(texts), self.embedding_dimension), np.nan, dtype=np.float32)
        tokens, rows = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
        failed: list[TextError] = []
        rule = self._frozen.rule_of(max_iterations, act_epsilon)

        def result() -> EncodeResult:
            rows_ = torch.from_numpy(found) if output == "torch" else found
            return EncodeResult(rows_, failed, tokens, rows, rule)

        stream = self.stream(
            texts,
            ordered=False,
            pooling=pooling,
            normalize=normalize,
            batch_tokens=batch_tokens,
            batch_size=batch_size,
            truncation=truncation,
            chunk=chunk,
            chunk_overlap=chunk_overlap,
            errors=errors,
            max_iterations=max_iterations,
            act_epsilon=act_epsilon,
        )
        try:
            with ProgressBar(show_progress, len(texts)) as bar:
                for one in stream:
                    if isinstance(one, TextError):
                        failed.append(one)
                        bar.advance(1)
                        continue
                    found[one.index] = one.embedding
                    tokens[one.index], rows[one.index] = one.cost.tokens, one.cost.rows
                    bar.advance(1, one.cost.tokens, one.cost.rows)
        except TextError as error:
            error.computed = result()
            raise
        failed.sort(key=lambda error: error.index)
        if details or errors == "collect":
            return result()
        embeddings = result().embeddings
        return embeddings[0] if single else embeddings

    def _encode_one(self, text: str, pooling: str | None, normalize: bool) -> np.ndarray | None:
        """The embedding [H] of a text about which nothing is special; else None. Beside a text of
        some tokens the general way takes as long as a tenth of the model, mostly for memory that
        the model's weights have driven out of the caches."""
        pooling = self.pooling if pooling is None else pooling
        if pooling not in ("mean", "cls"):
            return None
        ids = self._tokenizer.plain_ids(text)
        if ids is None:
            return None
        try:
            row = row_of(self._frozen, ids, pooling=pooling)
        except (MemoryError, RuntimeError) as error:
            if pipeline.is_out_of_memory(error):
                return None
            raise
        return _normalized(row) if normalize and row is not None else row

    def stream(
        self,
        sentences: Iterable[str],
        *,
        ordered: bool = True,
        pooling: str | None = None,
        normalize: bool = False,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        truncation: bool = False,
        chunk: bool = False,
        chunk_overlap: int | None = None,
        errors: str = "raise",
        max_iterations: int | None = None,
        act_epsilon: float | None = None,
        window: int = WINDOW_TEXTS,
        tokenizer_threads: int = 1,
    ) -> Iterator[TextEmbedding | TextError]:
        """Embeddings of texts as they come, in memory that does not grow with their number.

        Texts are read ahead of the results: up to `window` of them are held, sorted by length and
        made into batches, while others are tokenised in threads. They are read, and the model
        runs, in the caller's thread, when the next result is asked for. Closing the iterator, or
        dropping it, ends the threads.

        Args:
            sentences: any iterable of strings, endless ones too.
            ordered: results in the order of the texts; else as they are computed, each with its
                index.
            errors: "raise": what precedes the first text that failed comes out, then its TextError
                is raised; "collect": the TextError itself comes in the text's place.
            window: texts held and sorted at once. Fewer give a slow source's results sooner.
            tokenizer_threads: threads that tokenise.

        For the others see `encode`.

        Raises:
            TextError: with `errors="raise"`.
            ValueError, TypeError: an argument is not what it should be, at once.
        """
        if isinstance(sentences, str):
            raise TypeError("sentences: got a string, expected an iterable of strings.")
        settings = self._settings(
            batch_tokens, batch_size, errors, ordered, window, tokenizer_threads
        )
        work = self._embedding_work(
            self._options(False, truncation, chunk, chunk_overlap),
            pooling=pooling,
            normalize=normalize,
            max_iterations=max_iterations,
            act_epsilon=act_epsilon,
        )
        return pipeline.run(sentences, work, settings)

    def _embedding_work(
        self,
        options: TokenizeOptions,
        *,
        pooling: str | None = None,
        normalize: bool = False,
        max_iterations: int | None = None,
        act_epsilon: float | None = None,
    ) -> pipeline.Work:
        pooling = self.pooling if pooling is None else pooling
        if pooling is None:
            raise ValueError(
                "pooling: the model's 1_Pooling/config.json asks for another one than mean and "
                "cls; name the one to use."
            )
        one_of("pooling", pooling, POOLINGS)
        bare = self._bare(self._frozen.model)
        if pooling == "pooler" and (bare.pooler is None or self._lacks("pooler.")):
            raise ValueError(
                "pooling: got 'pooler', expected 'mean' or 'cls': the model has no pooler weights."
            )
        rule = self._frozen.rule_of(max_iterations, act_epsilon)

        def compute(batch: Sequence[TokenizedText]) -> list:
            packed = PackedBatch.of(batch)
            out = encode_packed(self._frozen, packed, rule=rule, pooling=pooling)
            finite = np.isfinite(out.rows).all(axis=1)
            return [
                (out.rows[i], out.tokens_by_iterations[i]) if finite[i] else self._not_finite(text)
                for i, text in enumerate(batch)
            ]

        def finish(windows: list[TokenizedText], parts: list) -> TextEmbedding:
            embedding = parts[0][0].copy()
            if len(parts) > 1:
                weights = [w.text_tokens for w in windows]
                embedding = np.average([p[0] for p in parts], 0, weights).astype(np.float32)
            if normalize:
                embedding = _normalized(embedding)
            cost = _cost(windows, [p[1] for p in parts])
            return TextEmbedding(windows[0].index, windows[0].text, embedding, cost, rule)

        return self._work(options, compute, finish)

    def __call__(
        self,
        rows: Mapping[str, Any] | str | Iterable[str],
        column: str = "text",
        output_column: str = "embedding",
        **options,
    ):
        """`encode`; and the function that `datasets.map` takes, with `batched=True` or without.

        Args:
            rows: a text, texts, or a row or batch of rows of a data set.
            column: of the texts in those rows.
            output_column: where the embeddings go.
            options: of `encode`.

        Returns:
            What `encode` returns; for rows, {output_column: embeddings}.
        """
        if not isinstance(rows, Mapping):
            return self.encode(rows, **options)
        if column not in rows:
            raise ValueError(f"column: got {column!r}, expected one of {', '.join(rows)}.")
        return {output_column: self.encode(rows[column], **options)}


def _normalized(embedding: np.ndarray) -> np.ndarray:
    return embedding / max(np.linalg.norm(embedding), 1e-12)


def _cost(windows: list[TokenizedText], histograms: list[np.ndarray]) -> TextCost:
    if len(histograms) == 1:
        histogram = histograms[0].tolist()
    else:
        columns = zip_longest(*(histogram.tolist() for histogram in histograms), fillvalue=0)
        histogram = [sum(column) for column in columns]
    while histogram[-1] == 0:
        histogram.pop()
    rows = sum(iterations * tokens for iterations, tokens in enumerate(histogram))
    tokens = sum(len(w.input_ids) for w in windows)
    return TextCost(tokens, rows, windows[0].truncated, len(windows), tuple(histogram))


def _list(sentences: str | Iterable[str]) -> Sequence[str]:
    if isinstance(sentences, str):
        return [sentences]
    if isinstance(sentences, bytes | Mapping) or not isinstance(sentences, Iterable):
        raise TypeError(
            f"sentences: got {type(sentences).__name__}, expected a string or an iterable of them."
        )
    return list(sentences)


def _same(name: str, value, other):
    """A setting that goes by two names."""
    return value if other is None else other
