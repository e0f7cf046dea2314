"""The table of depths from texts: what is masked, what is counted, and how sure the means are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.models import random_model

from albert_act_fast import TextEncoder
from albert_act_fast.depth.report import (
    MASK,
    ORIGINAL,
    PUBLISHED,
    RANDOM,
    UNMASKED,
    _Means,
    depth_report,
)
from albert_act_fast.tokenizer import load_tokenizer

TEXTS = ["Call me Ishmael, the whale-hunter.", "It was the best of times in 1851.", "so"] * 5


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    model = random_model(3, halting_bias=-0.2, vocab_size=30000, max_position_embeddings=20)
    return TextEncoder(model, load_tokenizer())


def groups(report, table: str) -> dict:
    return {group.name: group for group in report.tables[table]}


def test_without_masks_the_depths_are_those_of_the_texts(encoder):
    found = depth_report(encoder, TEXTS, mask_share=0)
    depths = encoder.depth(TEXTS)
    flat = [n for d in depths for n in d.iterations]
    masking = groups(found, "masking")
    assert set(masking) == {"all tokens", UNMASKED, "[CLS]", "[SEP]"}
    assert masking["all tokens"].tokens == found.tokens == len(flat)
    assert masking["all tokens"].mean == pytest.approx(np.mean(flat))
    assert masking["[CLS]"].mean == pytest.approx(np.mean([d.iterations[0] for d in depths]))
    assert masking["[CLS]"].tokens == len(TEXTS)
    by_class = groups(found, "class of token")
    assert sum(g.tokens for g in by_class.values()) == len(flat) - 2 * len(TEXTS)
    assert {"word", "word part", "punctuation", "number"} <= set(by_class)
    for table in ("position", "occurrences in these texts"):
        assert sum(g.tokens for g in groups(found, table).values()) == len(flat) - 2 * len(TEXTS)


def test_masking_is_that_of_pre_training(encoder):
    many = TEXTS * 20
    found = depth_report(encoder, many, mask_share=0.5, seed=1)
    masking = groups(found, "masking")
    own = found.tokens - 2 * len(many)
    chosen = {name: masking[name].tokens for name in (MASK, RANDOM, ORIGINAL)}
    total = sum(chosen.values())
    assert total / own == pytest.approx(0.5, abs=0.05)
    assert chosen[MASK] / total == pytest.approx(0.8, abs=0.05)
    assert chosen[RANDOM] / total == pytest.approx(0.1, abs=0.05)
    assert masking[UNMASKED].tokens == found.tokens - total
    assert set(masking) == set(PUBLISHED)
    # A mask is another token than the one it hides, so other depths.
    assert masking[MASK].mean != pytest.approx(masking[ORIGINAL].mean, abs=1e-3)


def test_the_same_again_however_it_is_batched(encoder):
    first = depth_report(encoder, TEXTS, seed=3)
    assert depth_report(encoder, TEXTS, seed=3) == first
    assert depth_report(encoder, TEXTS, seed=4) != first


def test_long_texts_go_in_windows_and_empty_ones_are_counted(encoder):
    found = depth_report(encoder, ["word " * 50, "", "日本語"], mask_share=0)
    assert (found.texts, found.skipped) == (1, 2)
    assert found.tokens == 50 + 2 * 3
    with pytest.raises(ValueError, match="texts: got none"):
        depth_report(encoder, [""])
    with pytest.raises(ValueError, match="mask_share: got 2"):
        depth_report(encoder, TEXTS, mask_share=2)


def test_intervals_are_of_texts_and_hold_the_mean():
    random = np.random.default_rng(0)
    text = np.repeat(np.arange(400), 10)
    # Tokens of a text are alike, so its ten say hardly more than one.
    depth = np.repeat(random.normal(5, 1, 400), 10)
    means = _Means(text, depth, 400, np.random.default_rng(1))
    (group,) = means.of([("all", np.ones(4000, bool))])
    assert group.low < group.mean < group.high
    assert group.high - group.low == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.15)
    (one,) = means.of([("one", text == 3)])
    assert (one.low, one.high) == (None, None)
    assert means.of([("none", np.zeros(4000, bool))]) == []


class TestCommand:
    @pytest.fixture
    def run(self):
        from typer.testing import CliRunner

        from albert_act_fast.cli.app import app

        return lambda *args: CliRunner().invoke(app, ["report", *map(str, args)])

    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "texts.txt"
        path.write_text("\n\n".join(TEXTS), encoding="utf-8")
        return path

    def test_table_and_page(self, run, file, tmp_path):
        page = tmp_path / "report.html"
        result = run(file, "--html", page)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].startswith("model  sentence; 15 texts")
        (row,) = [line for line in lines if line.startswith("[CLS]")]
        assert row.endswith("6.0 / 12.0 / 22.5")
        html = page.read_text(encoding="utf-8")
        assert html.count("<table>") == 4
        assert "<td>22.5</td>" in html
        assert "src=" not in html

    def test_json(self, run, file):
        found = json.loads(run(file, file, "--json", "--seed", 5).stdout)
        assert (found["texts"], found["seed"], found["iteration_limit"]) == (30, 5, 12)
        assert found["published"]["all tokens"] == {"tiny": 3.8, "small": 7.1, "base": 10.0}
        assert found["tables"]["masking"][0]["name"] == "all tokens"

    def test_mistakes(self, run, tmp_path):
        assert run(tmp_path / "nothing.txt").exit_code == 2
        assert "there is no folder" in run("-", "--html", tmp_path / "a" / "b.html").stderr
