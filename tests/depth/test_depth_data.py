"""Depth as data: tokens with their places, and the probabilities that made them halt."""

from __future__ import annotations

import pytest
import torch
from support.models import random_model
from transformers import BertTokenizerLegacy

from albert_act_fast import TextEncoder, depth
from albert_act_fast.tokenizer import load_tokenizer

TEXTS = ["Call me Ishmael, the well-known whale-hunter.", "On the 3rd of May [MASK].", "so"]


@pytest.fixture(scope="module")
def encoders():
    """One of WordPiece, one of sentencepiece."""
    model = random_model(3, halting_bias=-0.2, vocab_size=30000, max_position_embeddings=40)
    return {
        "sentence": TextEncoder.from_pretrained("sentence"),
        "random": TextEncoder(model, load_tokenizer()),
    }


@pytest.mark.parametrize("name", ["sentence", "random"])
def test_each_token_has_its_text_and_class(encoders, name):
    found = encoders[name].depth(TEXTS[0])
    tokens = depth.tokens_of(found)
    assert [t.piece for t in tokens] == found.tokens
    assert [t.n_updates for t in tokens] == found.iterations
    for token in tokens:
        if token.offsets is None:
            assert token.text in ("[CLS]", "[SEP]")
        else:
            assert token.text == TEXTS[0][slice(*token.offsets)].strip()
    by_text = {t.text: t for t in tokens}
    assert by_text["Call"].token_class == by_text["known"].token_class == "word"
    assert by_text["hma"].token_class == by_text["el"].token_class == "word part"
    assert by_text[","].token_class == by_text["-"].token_class == "punctuation"
    assert (by_text["me"].joined, by_text["known"].joined, by_text[","].joined) == (
        False,
        True,
        True,
    )
    # Joined as told, the tokens are the text again.
    shown = "".join(t.text if t.joined else f" {t.text}" for t in tokens[1:-1])
    assert shown.strip() == TEXTS[0]


def test_special_tokens_and_numbers(encoders):
    tokens = depth.tokens_of(encoders["sentence"].depth(TEXTS[1] + " 1851 [SEP]"))
    classes = {t.text: t.token_class for t in tokens}
    for name in ("[CLS]", "[SEP]", "[MASK]"):
        assert classes[name] == name
    assert classes["1851"] == "number"
    assert [t.token_class for t in tokens].count("[SEP]") == 2


def test_without_offsets_the_pieces_speak(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "call", "ish", "##mael", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerLegacy(tmp_path / "vocab.txt")
    model = random_model(3, vocab_size=len(words))
    tokens = depth.tokens_of(TextEncoder(model, tokenizer).depth("Call Ishmael."))
    assert [t.text for t in tokens] == ["[CLS]", "call", "ish", "mael", ".", "[SEP]"]
    assert {t.offsets for t in tokens} == {None}
    assert [t.joined for t in tokens] == [False, False, False, True, False, False]
    assert tokens[3].token_class == "word part"


@pytest.mark.parametrize("rule", [{}, {"max_iterations": 3}, {"act_epsilon": 0.3}])
def test_probabilities_are_those_the_rule_saw(encoders, rule):
    """What the sums say is what the model returned: iterations, remainders, and the threshold."""
    for name, encoder in encoders.items():
        for found in encoder.depth(TEXTS, probabilities=True, **rule):
            threshold = 1 - found.rule.act_epsilon
            for token in depth.tokens_of(found):
                p, accumulated = token.probabilities, token.accumulated
                assert len(p) == len(accumulated) == token.n_updates, name
                assert all(0 < one < 1 for one in p)
                sums = torch.tensor(p, dtype=torch.float64).cumsum(0).tolist()
                assert accumulated[:-1] == pytest.approx(sums[:-1], abs=1e-6)
                assert all(a <= threshold + 1e-6 for a in accumulated[:-1])
                if token.remainder:
                    assert accumulated[-1] == 1
                    before = accumulated[-2] if len(p) > 1 else 0
                    assert token.remainder == pytest.approx(1 - before, abs=1e-6)
                else:
                    assert token.n_updates == found.rule.max_iterations
                    assert accumulated[-1] == pytest.approx(sums[-1], abs=1e-6)


def test_probabilities_change_no_depth_and_leave_no_hook(encoders):
    encoder = encoders["random"]
    before, implementation = encoder.depth(TEXTS), encoder.implementation
    recorded = encoder.depth(TEXTS, probabilities=True)
    assert [d.iterations for d in recorded] == [d.iterations for d in before]
    assert [d.probabilities for d in before] == [None] * 3
    hooks = encoder._frozen.model.encoder.albert_layer.act._forward_hooks
    assert not hooks
    assert encoder.implementation == implementation


def test_record_of_a_bare_model():
    model = random_model(3)
    ids = torch.randint(5, 61, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    found = depth.record(model, ids, mask)
    with torch.no_grad():
        out = model(ids, attention_mask=mask, implementation="reference")
    assert torch.equal(found.n_updates, out.n_updates)
    assert torch.equal(found.remainders, out.remainders)
    assert torch.equal((found.probabilities > 0).sum(-1).float(), out.n_updates)
    assert not found.probabilities[1, :4].any()
    assert not found.accumulated[1, :4].any()
    assert len({*out.n_updates.flatten().tolist()}) > 4
    with pytest.raises(ValueError, match="model: it is in training mode"):
        depth.record(model.train(), ids)


def test_int8_has_no_record(encoders):
    encoder = encoders["sentence"]
    frozen = encoder._frozen.model.config
    frozen.quantization = "int8"
    try:
        with pytest.raises(ValueError, match="probabilities: the reference loop records them"):
            encoder.depth("so", probabilities=True)
    finally:
        frozen.quantization = None
