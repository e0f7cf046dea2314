"""float32 products follow PyTorch's switches, whichever of them was used, in whichever order."""

import pytest
import torch

from albert_act_fast.ops.precision import takes_tf32

matmul = torch.backends.cuda.matmul


def _top(value):
    torch.backends.fp32_precision = value


def _new(value):
    matmul.fp32_precision = value


def _allow(value):
    matmul.allow_tf32 = value


OLD = torch.set_float32_matmul_precision


@pytest.fixture(autouse=True)
def unset():
    yield
    _top("none")
    OLD("highest")
    _new("none")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], False),
        ([(OLD, "high")], True),
        ([(OLD, "medium"), (OLD, "highest")], False),
        ([(_allow, True)], True),
        ([(_new, "tf32")], True),
        ([(OLD, "high"), (_new, "ieee")], False),
        ([(_top, "tf32")], True),
        ([(_top, "tf32"), (_new, "ieee")], False),
    ],
)
def test_every_switch_is_followed(steps, expected):
    for switch, value in steps:
        switch(value)
    assert takes_tf32(torch.float32) is expected
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert not takes_tf32(dtype)
