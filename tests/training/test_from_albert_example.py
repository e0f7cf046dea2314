"""examples/from_albert.py, a few steps of it."""

from __future__ import annotations

from pathlib import Path

from albert_act_fast import AlbertActForMaskedLM

TEXT = Path(__file__).parents[1] / "fixtures" / "text"


def test_it_carries_over_trains_on_and_tells(load_example, tmp_path, capsys):
    steps = ["--albert-steps", "2", "--steps", "2", "--output", str(tmp_path)]
    load_example("from_albert").main(["--text", str(TEXT), *steps])
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith("| ALBERT, 2 steps |")
    assert rows[2].endswith("| 6 (fixed) |")
    assert len(rows) == 6
    assert AlbertActForMaskedLM.from_pretrained(tmp_path).config.act_tau == 1e-4
