"""STS-B of a sentence encoder, and its pooling written where others look for it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from training import pad

from albert_act_fast.glue import get_task, read_examples


@torch.no_grad()
def embed(model, tokenizer, texts: list[str], pooling: str, implementation: str | None = None):
    """Normalised embeddings [texts, H] and every text's iterations."""
    model.eval()
    rows = tokenizer(texts, truncation=True, max_length=128)["input_ids"]
    result: list = [None] * len(rows)
    depths: list = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        ids = pad([rows[i] for i in chosen], tokenizer.pad_token_id or 0)
        mask = pad([[1] * len(rows[i]) for i in chosen], 0)
        output = model(input_ids=ids, attention_mask=mask, implementation=implementation)
        states = output.last_hidden_state.float()
        vectors = states.sum(1) / mask.sum(1, keepdim=True) if pooling == "mean" else states[:, 0]
        for place, i in enumerate(chosen):
            result[i] = vectors[place]
            depths[i] = output.n_updates[place, : len(rows[i])]
    return torch.nn.functional.normalize(torch.stack(result), dim=1), depths


def cosines(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(1)


def pairs_of_dev(data) -> tuple[list[str], list[float]]:
    """STS-B's dev set: the texts, two of a pair after one another, and every pair's score."""
    examples = read_examples(get_task("sts-b"), data, "dev")
    return [text for e in examples for text in e.texts], [e.label for e in examples]


def score(cosine: Tensor, depths: Tensor, wanted: list[float]) -> dict:
    """Spearman's and Pearson's correlation in %, and the depths' mean and deviation."""
    return {
        "sts_spearman": round(100 * float(spearmanr(cosine.tolist(), wanted)[0]), 2),
        "sts_pearson": round(100 * float(pearsonr(cosine.tolist(), wanted)[0]), 2),
        "sts_depth": round(depths.mean().item(), 3),
        "sts_depth_deviation": round(depths.std().item(), 3),
    }


def evaluate_sts(model, tokenizer, data, pooling: str, implementation: str = "auto") -> dict:
    """Cosine against score on STS-B's dev set, and the depths there."""
    texts, wanted = pairs_of_dev(data)
    vectors, depths = embed(model, tokenizer, texts, pooling, implementation)
    return score(cosines(vectors[0::2], vectors[1::2]), torch.cat(depths), wanted)


def save_pooling(folder: Path, width: int, pooling: str) -> None:
    """The files by which SentenceTransformers, and this package, know how to pool."""
    modules = [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    described = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(modules)
    ]
    _write(folder / "modules.json", described)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})
    modes = {"cls_token": pooling == "cls", "mean_tokens": pooling == "mean"}
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": width}
        | {f"pooling_mode_{name}": value for name, value in modes.items()},
    )


def _write(path: Path, value) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
