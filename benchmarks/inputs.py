"""What the benchmarks run on: text of the project's own, or real text from a data folder."""

from __future__ import annotations

import csv
import os
import random
from pathlib import Path

import torch
from torch import Tensor

from albert_act_fast.tokenizer import load_tokenizer

ROOT = Path(__file__).parent.parent
DATA_VARIABLE = "ALBERT_ACT_FAST_DATA"


def data_folder() -> Path | None:
    """The folder that `ALBERT_ACT_FAST_DATA` names, None where it is not set."""
    name = os.environ.get(DATA_VARIABLE)
    return Path(name) if name else None


def own_text() -> str:
    """English prose that is always there: the licence and the project's own documents."""
    names = ("LICENSE", "README.md", "CONTRIBUTING.md", "benchmarks/README.md")
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def pretraining_batch(sequences: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """[sequences, length] ids without padding, each [CLS] ... [SEP], and the mask of ones.

    Tokens are masked as in pre-training (15 % chosen, 80 % of those masked), because the published
    mean depth of all tokens is that of such text.
    """
    tokenizer = load_tokenizer()
    ids = [
        token
        for line in own_text().splitlines()
        for token in tokenizer(line, add_special_tokens=False)["input_ids"]
    ]
    content = length - 2
    ids = (ids * (sequences * content // len(ids) + 1))[: sequences * content]
    body = torch.tensor(ids).view(sequences, content)
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(body.shape, generator=generator) < 0.15 * 0.8
    body = body.masked_fill(masked, tokenizer.mask_token_id)
    edge = torch.ones(sequences, 1, dtype=torch.int64)
    input_ids = torch.cat([tokenizer.cls_token_id * edge, body, tokenizer.sep_token_id * edge], 1)
    return input_ids, torch.ones_like(input_ids)


def real_sentences(count: int, seed: int = 0) -> list[str]:
    """SST-2 sentences and sentences of encyclopedia text, half each.

    Raises:
        FileNotFoundError: the data folder is not set or lacks a file.
    """
    folder = data_folder()
    if folder is None:
        raise FileNotFoundError(f"{DATA_VARIABLE} is not set")
    with open(folder / "glue/SST-2/dev.tsv", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        reviews = [row["sentence"] for row in rows]
    text = (folder / "text/wiki.valid.detok.txt").read_text(encoding="utf-8")
    encyclopedia = [s.strip() + "." for s in text.replace("\n", " ").split(". ") if len(s) > 40]
    chooser = random.Random(seed)
    half = count // 2
    return chooser.sample(reviews, half) + chooser.sample(encyclopedia, count - half)


def padded_batch(sentences: list[str]) -> tuple[Tensor, Tensor]:
    """The sentences as one right-padded batch."""
    encoded = load_tokenizer()(sentences, padding=True, truncation=True, return_tensors="pt")
    return encoded["input_ids"], encoded["attention_mask"]
