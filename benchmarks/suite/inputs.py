"""What the cases run on: real text from a data folder, or text of the project's own."""

from __future__ import annotations

import csv
import functools
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from albert_act_fast.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]
DATA_VARIABLE = "ALBERT_ACT_FAST_DATA"
# Share of tokens that pre-training replaces by [MASK]; the published mean depths are of such text.
MASKED_SHARE = 0.15 * 0.8
SOURCES = {"sst2": "SST-2", "cola": "CoLA", "wiki": "WikiText-2", "books": "novels"}
BOOKS = ("moby_dick_2701", "pride_and_prejudice_1342", "sherlock_holmes_1661")


@dataclass(frozen=True)
class Batch:
    """input_ids, attention_mask: [B, S]; source: where the text is from."""

    input_ids: Tensor
    attention_mask: Tensor
    source: str

    @property
    def tokens(self) -> int:
        """Padding left out."""
        return int(self.attention_mask.sum())

    def shortest(self, places: int) -> tuple[Tensor, Batch]:
        """The shortest sequences, as many as fit into so many places, one at least; and which they
        are. Columns that then hold padding alone are left out: padding is on the right."""
        lengths, order = self.attention_mask.sum(1).sort(stable=True)
        needed = lengths * torch.arange(1, len(lengths) + 1, device=lengths.device)
        count = max(1, int((needed <= places).sum()))
        chosen, width = order[:count], int(lengths[count - 1])
        part = Batch(
            self.input_ids[chosen, :width], self.attention_mask[chosen, :width], self.source
        )
        return chosen, part

    def to(self, device: str) -> Batch:
        return Batch(self.input_ids.to(device), self.attention_mask.to(device), self.source)


def data_folder() -> Path | None:
    """The folder that `ALBERT_ACT_FAST_DATA` names, None where it is not set."""
    name = os.environ.get(DATA_VARIABLE)
    return Path(name) if name else None


@functools.cache
def own_text() -> str:
    """English prose that is always there and rarely changes: the licence and the tests' texts."""
    names = ("LICENSE", "tests/fixtures/text/harbour.txt", "tests/fixtures/text/workshop.txt")
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def fixed_batch(sequences: int, length: int, seed: int = 0) -> Batch:
    """Every sequence [CLS] ... [SEP] of `length` tokens, no padding, masked as in pre-training."""
    return _of_lengths([length] * sequences, seed)


def mixed_batch(sequences: int, longest: int, seed: int = 0) -> Batch:
    """Lengths drawn evenly from 8 to `longest`, one of them `longest`; right padding."""
    chooser = random.Random(seed)
    lengths = [chooser.randint(8, longest) for _ in range(sequences - 1)]
    return _of_lengths([longest, *lengths], seed)


def _of_lengths(lengths: list[int], seed: int) -> Batch:
    tokenizer = load_tokenizer()
    stream = _own_tokens()
    wanted = sum(lengths)
    ids = torch.tensor(stream * (wanted // len(stream) + 1))
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(len(ids), generator=generator) < MASKED_SHARE
    ids = ids.masked_fill(masked, tokenizer.mask_token_id)
    input_ids = torch.full((len(lengths), max(lengths)), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    start = 0
    for row, length in enumerate(lengths):
        input_ids[row, 0] = tokenizer.cls_token_id
        input_ids[row, 1 : length - 1] = ids[start : start + length - 2]
        input_ids[row, length - 1] = tokenizer.sep_token_id
        attention_mask[row, :length] = 1
        start += length - 2
    return Batch(input_ids, attention_mask, "the project's own text")


@functools.cache
def _own_tokens() -> list[int]:
    tokenizer = load_tokenizer()
    lines = own_text().splitlines()
    return [t for line in lines for t in tokenizer(line, add_special_tokens=False)["input_ids"]]


def sentence_batch(sequences: int, kind: str, seed: int = 0) -> Batch:
    """Real sentences with the lengths they have, right-padded; see `sentence_texts`."""
    chosen, source = sentence_texts(sequences, kind, seed)
    encoded = load_tokenizer()(chosen, padding=True, truncation=True, return_tensors="pt")
    return Batch(encoded["input_ids"], encoded["attention_mask"], source)


def sentence_texts(sequences: int, kind: str, seed: int = 0) -> tuple[list[str], str]:
    """Real sentences, and where they are from.

    Args:
        kind: "sst2", "cola", "wiki", "books", or "mixed", half SST-2 and half encyclopedia. All
            become sentences of the project's own text where no data folder is set.

    Raises:
        FileNotFoundError: a data folder is set and lacks the file.
    """
    chooser = random.Random(seed)
    folder = data_folder()
    if folder is None:
        own = [s for paragraph in own_text().split("\n\n") for s in _sentences(paragraph)]
        # None twice as long as there are others: it would say nothing new.
        chosen = chooser.sample(own, len(own))
        chosen = (chosen * -(-sequences // len(own)))[:sequences]
        source = "sentences of the project's own text"
    elif kind == "mixed":
        half = sequences // 2
        chosen = chooser.sample(_real(folder, "sst2"), half)
        chosen += chooser.sample(_real(folder, "wiki"), sequences - half)
        source = "SST-2 and WikiText-2"
    else:
        chosen, source = chooser.sample(_real(folder, kind), sequences), SOURCES[kind]
    return chosen, source


def corpus_texts(sentences: int) -> tuple[list[str], str]:
    """Real sentences of all sources, shuffled, and where they are from; again from the beginning
    where there are not as many."""
    folder = data_folder()
    if folder is None:
        texts, source = sentence_texts(sentences, "mixed")
    else:
        texts = [text for kind in SOURCES for text in _real(folder, kind)]
        source = ", ".join(SOURCES.values())
    random.Random(0).shuffle(texts)
    return (texts * -(-sentences // len(texts)))[:sentences], source


def _real(folder: Path, kind: str) -> list[str]:
    if kind == "sst2":
        with open(folder / "glue/SST-2/dev.tsv", encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [row["sentence"] for row in rows]
    if kind == "cola":
        with open(folder / "glue/CoLA/dev.tsv", encoding="utf-8", newline="") as file:
            return [row[3] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    names = [f"{name}.txt" for name in BOOKS] if kind == "books" else ["wiki.valid.detok.txt"]
    texts = [(folder / "text" / name).read_text(encoding="utf-8") for name in names]
    return _sentences("\n".join(texts))


def _sentences(text: str) -> list[str]:
    sentences = (" ".join(s.split()) for s in re.split(r"(?<=[.!?])\s+", text))
    return [s for s in sentences if len(s) > 40]
