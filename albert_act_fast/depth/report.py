"""The model card's table of depths, from any texts: masked as in pre-training, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from albert_act_fast.depth.data import TOKEN_CLASSES, token_classes
from albert_act_fast.depth.word_classes import NO_CLASS, WORD_CLASSES, WordClasses
from albert_act_fast.text import pipeline
from albert_act_fast.text.compute import PackedBatch, run_padded
from albert_act_fast.text.errors import TextError

if TYPE_CHECKING:
    import os

    from spacy.language import Language

    from albert_act_fast import TextEncoder
    from albert_act_fast.text.tokenize import TokenizedText

# As in pre-training: of the tokens that are chosen so many become [MASK], and as many another one.
_MASKED, _RANDOM = 0.8, 0.1
UNMASKED, MASK, RANDOM, ORIGINAL = "unmasked", "[MASK]/[MASK]", "[MASK]/random", "[MASK]/original"
# Mean iterations of the published models, from their model card.
PUBLISHED = {
    "all tokens": (3.8, 7.1, 10.0),
    UNMASKED: (3.5, 6.5, 9.2),
    MASK: (5.8, 10.9, 16.0),
    RANDOM: (5.8, 10.9, 16.0),
    ORIGINAL: (4.0, 7.4, 10.5),
    "[CLS]": (6.0, 12.0, 22.5),
    "[SEP]": (2.5, 7.6, 8.4),
}
PUBLISHED_MODELS = ("tiny", "small", "base")
_POSITIONS = (1, 8, 16, 32, 64, 128, 256)
_OCCURRENCES = (1, 2, 10, 100, 1000, 10000)
_RESAMPLES, _BLOCKS = 1000, 1000


@dataclass(frozen=True)
class GroupDepth:
    """Mean iterations of a group of tokens, with a 95 % bootstrap interval over texts (None for
    a group of one text)."""

    name: str
    tokens: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class DepthReport:
    """tables: by what tokens are grouped -> groups. published: by group, mean iterations of the
    published tiny, small and base. skipped: texts that have no depth. word_classes_by: the spaCy
    pipeline that told word classes; None if there is no such table."""

    texts: int
    tokens: int
    skipped: int
    limit: int
    mask_share: float
    seed: int
    tables: dict[str, list[GroupDepth]]
    word_classes_by: str | None = None

    def as_dict(self) -> dict:
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "skipped": self.skipped,
            "iteration_limit": self.limit,
            "mask_share": self.mask_share,
            "seed": self.seed,
            "word_classes_by": self.word_classes_by,
            "tables": {
                title: [vars(group) for group in groups] for title, groups in self.tables.items()
            },
            "published": {
                name: dict(zip(PUBLISHED_MODELS, means, strict=True))
                for name, means in PUBLISHED.items()
            },
        }


def depth_report(
    encoder: TextEncoder,
    texts: Iterable[str],
    *,
    mask_share: float = 0.15,
    seed: int = 0,
    spacy_model: str | os.PathLike | Language | None = None,
    on_text=None,
) -> DepthReport:
    """Runs texts with some of their tokens masked, and groups the iterations of all tokens.

    Args:
        texts: one sequence each; what is too long goes in windows of the model's length.
        mask_share: of the text's own tokens that are chosen, 80 % of them becoming [MASK], 10 %
            another token, 10 % staying.
        seed: of that choice, and of the intervals.
        spacy_model: a spaCy pipeline, or its name or folder, that adds a table by word class. A
            token has the class of the word in which it begins, in the text before masking.
        on_text: called after each text.

    Raises:
        ImportError: spaCy is wanted and not installed (extra `[spacy]`).
        ValueError: mask_share is out of range, the tokenizer has no mask, or no text has a depth;
            spacy_model cannot be loaded, or gives no word classes.
    """
    if not 0 <= mask_share <= 1:
        raise ValueError(f"mask_share: got {mask_share}, expected a number from 0 to 1.")
    if mask_share and encoder.tokenizer.mask_token_id is None:
        raise ValueError("mask_share: the tokenizer has no mask, expected 0.")
    words = None if spacy_model is None else WordClasses(spacy_model)
    table = _Table()
    skipped = 0
    for parts in _run(encoder, texts, mask_share, seed, words):
        if isinstance(parts, TextError):
            if parts.kind not in ("empty", "unknown"):
                raise parts
            skipped += 1
        else:
            table.add(parts)
        if on_text is not None:
            on_text()
    if not table.texts:
        raise ValueError("texts: got none that the model knows a token of.")
    if words is not None:
        words.check()
    return DepthReport(
        table.texts,
        len(table.column("depth")),
        skipped,
        encoder.config.num_hidden_layers,
        mask_share,
        seed,
        table.groups(np.random.default_rng(seed)),
        None if words is None else words.name,
    )


@dataclass(frozen=True)
class _Part:
    """One window. roles: what became of each token in masking, or which special one it is."""

    input_ids: list[int]
    roles: list[str]
    classes: list[str]
    depths: list[int]
    word_classes: list[str] | None = None


def _run(
    encoder: TextEncoder,
    texts: Iterable[str],
    share: float,
    seed: int,
    words: WordClasses | None,
):
    rule = encoder._frozen.rule_of(None, None)
    tokenizer = encoder._tokenizer
    special = set(encoder.tokenizer.all_special_ids)
    others = np.array([i for i in range(len(encoder.tokenizer)) if i not in special])

    def compute(batch: Sequence[TokenizedText]) -> list:
        masked = [_masked(text, tokenizer, share, seed, others) for text in batch]
        packed = PackedBatch.of(
            [replace(t, input_ids=ids) for t, (ids, _) in zip(batch, masked, strict=True)]
        )
        with encoder._frozen.under(rule) as model:
            out = run_padded(encoder._bare(model), packed, implementation=encoder.implementation)
        finite = out.last_hidden_state.flatten(1).isfinite().all(1).tolist()
        depths = out.n_updates.int().cpu().tolist()
        found: list = []
        for text, (_, roles), row, good in zip(batch, masked, depths, finite, strict=True):
            if not good:
                found.append(encoder._not_finite(text))
                continue
            names = tokenizer.special_names(text)
            classes = token_classes(
                text.text, tokenizer.pieces(text.input_ids), names, text.offsets
            )
            found.append(_Part(text.input_ids, roles, classes, row[: len(text.input_ids)]))
        return found

    def finish(windows: Sequence[TokenizedText], parts: list[_Part]) -> list[_Part]:
        if words is None:
            return parts
        classes = words.of(windows[0].text, [window.offsets for window in windows])
        return [replace(p, word_classes=own) for p, own in zip(parts, classes, strict=True)]

    options = encoder._options(True, False, True, 0)
    work = encoder._work(options, compute, finish)
    return pipeline.run(texts, work, encoder._settings(errors="collect"))


def _masked(text: TokenizedText, tokenizer, share, seed, others) -> tuple[list[int], list[str]]:
    # Drawn for each window of each text, so that batches change nothing.
    own = tokenizer.own_places(text)
    start = text.offsets[own.start][0] if text.offsets else 0
    random = np.random.default_rng([seed, text.index, start])
    ids = list(text.input_ids)
    roles = [name or UNMASKED for name in tokenizer.special_names(text)]
    mask_id = tokenizer.tokenizer.mask_token_id
    chosen, kinds = random.random(len(own)), random.random(len(own))
    replacements = random.choice(others, len(own))
    for place, draw, kind, other in zip(own, chosen, kinds, replacements, strict=True):
        if roles[place] != UNMASKED or draw >= share:
            continue
        if kind < _MASKED:
            ids[place], roles[place] = mask_id, MASK
        elif kind < _MASKED + _RANDOM:
            ids[place], roles[place] = int(other), RANDOM
        else:
            roles[place] = ORIGINAL
    return ids, roles


class _Table:
    """One row a token, as columns."""

    def __init__(self):
        self.texts = 0
        self._columns: dict[str, list[np.ndarray]] = {}
        self._names: dict[str, int] = {}
        self._word_classes: set[str] = set()

    def add(self, parts: Sequence[_Part]) -> None:
        for part in parts:
            count = len(part.depths)
            rows = {
                "text": np.full(count, self.texts, np.int32),
                "id": np.array(part.input_ids, np.int32),
                "depth": np.array(part.depths, np.int16),
                "position": np.arange(count, dtype=np.int32),
                "role": self._codes(part.roles),
                "class": self._codes(part.classes),
            }
            if part.word_classes is not None:
                self._word_classes.update(part.word_classes)
                rows["word class"] = self._codes(part.word_classes)
            for name, values in rows.items():
                self._columns.setdefault(name, []).append(values)
        self.texts += 1

    def column(self, name: str) -> np.ndarray:
        parts = self._columns[name]
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]

    def groups(self, random: np.random.Generator) -> dict[str, list[GroupDepth]]:
        """The tables; by frequency and by classes the tokens alone that stayed what they are."""
        means = _Means(self.column("text"), self.column("depth"), self.texts, random)
        role, kind = self.column("role"), self.column("class")
        everything = np.ones(len(role), bool)
        special = np.isin(role, self._codes(["[CLS]", "[SEP]"]))
        unmasked = (role == self._code(UNMASKED)) | special
        plain = role == self._code(UNMASKED)
        _, inverse, counts = np.unique(self.column("id"), return_inverse=True, return_counts=True)
        roles = [("all tokens", everything), (UNMASKED, unmasked)]
        roles += [
            (name, role == self._code(name)) for name in (MASK, RANDOM, ORIGINAL, "[CLS]", "[SEP]")
        ]
        classes = [(name, plain & (kind == self._code(name))) for name in TOKEN_CLASSES]
        return {
            "masking": means.of(roles),
            "class of token": means.of(classes),
            **({"word class": means.of(self._by_word_class(plain))} if self._word_classes else {}),
            "position": means.of(_ranges(self.column("position"), _POSITIONS, ~special)),
            "occurrences in these texts": means.of(_ranges(counts[inverse], _OCCURRENCES, plain)),
        }

    def _by_word_class(self, among: np.ndarray) -> list[tuple[str, np.ndarray]]:
        own = sorted(self._word_classes - {*WORD_CLASSES, NO_CLASS})  # a pipeline's own names
        column = self.column("word class")
        names = (*WORD_CLASSES, *own, NO_CLASS)
        return [(name, among & (column == self._code(name))) for name in names]

    def _code(self, name: str) -> int:
        return self._names.setdefault(name, len(self._names))

    def _codes(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self._code(name) for name in names], np.int16)


class _Means:
    """Means of groups of tokens, and their intervals: texts are drawn again, not tokens, because
    the tokens of a text are not independent. Many texts are drawn in blocks."""

    def __init__(self, text: np.ndarray, depth: np.ndarray, texts: int, random):
        self._depth = depth.astype(np.float64)
        self._blocks = min(texts, _BLOCKS)
        self._block = text % self._blocks
        share = np.full(self._blocks, 1 / self._blocks)
        self._draws = random.multinomial(self._blocks, share, size=_RESAMPLES)

    def of(self, groups: Iterable[tuple[str, np.ndarray]]) -> list[GroupDepth]:
        """Of the groups that have tokens."""
        return [self._one(name, chosen) for name, chosen in groups if chosen.any()]

    def _one(self, name: str, chosen: np.ndarray) -> GroupDepth:
        block, depth = self._block[chosen], self._depth[chosen]
        counts = np.bincount(block, minlength=self._blocks)
        low = high = None
        if (counts > 0).sum() > 1:
            sums = np.bincount(block, depth, minlength=self._blocks)
            tokens = self._draws @ counts
            drawn = tokens > 0
            means = (self._draws @ sums)[drawn] / tokens[drawn]
            low, high = (float(x) for x in np.percentile(means, [2.5, 97.5]))
        return GroupDepth(name, int(chosen.sum()), float(depth.mean()), low, high)


def _ranges(values: np.ndarray, starts: Sequence[int], among: np.ndarray):
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        chosen = among & (values >= start)
        if end is None:
            yield f"{start} and more", chosen
        else:
            name = str(start) if end == start + 1 else f"{start} to {end - 1}"
            yield name, chosen & (values < end)
