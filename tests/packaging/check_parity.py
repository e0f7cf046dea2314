"""The C++ engine against the plain loop in the package that is imported; needs nothing else.

python tests/packaging/check_parity.py      # in any environment with the package
"""

from __future__ import annotations

import os

import torch

import albert_act_fast
from albert_act_fast import AlbertActModel, native, shipped_model
from albert_act_fast.tokenizer import load_tokenizer

TEXTS = ["A lump in the middle of the monkeys stirred.", "Quiet.", "Call me [MASK], (3.14) times."]


def main() -> None:
    if native.library is None:
        raise SystemExit(native.why_no_cpp)
    model = AlbertActModel.from_pretrained(shipped_model("sst2")).eval()
    batch = load_tokenizer(shipped_model("sst2"))(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch, implementation="reference")
        got = model(**batch, implementation="cpp")
    for name in ("n_updates", "last_hidden_state", "pooler_output"):
        want, have = getattr(expected, name), getattr(got, name)
        exact = name == "n_updates"
        scale = 0 if exact else 1e-5 * want.abs().max().item()
        torch.testing.assert_close(have, want, rtol=0, atol=scale, check_dtype=False, msg=name)
    print("cpp agrees with reference in", os.path.dirname(albert_act_fast.__file__))


if __name__ == "__main__":
    main()
