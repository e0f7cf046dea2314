"""A tiny random sentence encoder, in the files that SentenceTransformers writes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

FIXTURES = Path(__file__).parents[1] / "fixtures"


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = set()
    for file in (*FIXTURES.rglob("*.txt"), *FIXTURES.rglob("*.tsv")):
        words.update(file.read_text(encoding="utf-8").lower().replace("\t", " ").split())
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(
        zip(
            ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
            special,
            strict=True,
        )
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def write_teacher(folder: Path, pooling: str = "mean", more: tuple = ("Normalize",)) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"m_{n}", n) for n in more)]
    modules = [{"path": p, "type": f"sentence_transformers.models.{n}"} for p, n in modules]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == pooling for name in ("mean_tokens", "max_tokens")}
    modes["pooling_mode_cls_token"] = pooling == "cls_token"
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder
