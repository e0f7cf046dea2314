"""From a padded batch to packed rows and back, by the GPU engine's own kernels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support import triton_interpreter
from support.compare import assert_parity, run, trace_reference
from support.models import mask_of, random_batch, random_model
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from albert_act_fast import ops
from albert_act_fast.engine import gpu
from albert_act_fast.engine.gpu import padded
from suite.operator_calls import poisoned

pytestmark = pytest.mark.usefixtures("interpreted")

SIZES = {"input_ids": 50, "token_type_ids": 3, "position_ids": 40}
INTEGERS = (torch.int64, torch.int32, torch.uint8)
MASKS = (torch.bool, torch.int64, torch.uint8, torch.float16, torch.bfloat16, torch.float64)


def op(name: str):
    return ops.implementation_of(name, "triton")


def batch(seed: int, sequences: int, tokens: int, leave_out: frozenset = frozenset()) -> dict:
    """Random ids and a random mask, of random dtypes; each in a wider tensor."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int) -> torch.Tensor:
        return torch.randint(high, (sequences, tokens + 5), generator=generator)

    def pick(kinds):
        return kinds[int(torch.randint(len(kinds), (1,), generator=generator))]

    given = {name: integers(size).to(pick(INTEGERS)) for name, size in SIZES.items()}
    given["attention_mask"] = integers(2).to(pick(MASKS))
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    return {n: None if n in leave_out else given[n][:, 2 : tokens + 2] for n in names}


def count(given: dict, sequences: int, tokens: int) -> torch.Tensor:
    found = poisoned(2, sequences, dtype=torch.int32)
    sizes = (SIZES["input_ids"], SIZES["token_type_ids"], SIZES["position_ids"])
    op("count_tokens")(*given.values(), tokens, *sizes, found)
    return found


LEFT_OUT = [
    frozenset(),
    frozenset({"token_type_ids", "position_ids"}),
    frozenset({"attention_mask"}),
    frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"}),
]


@pytest.mark.parametrize("left_out", LEFT_OUT, ids=lambda names: f"without {len(names)}")
@pytest.mark.parametrize(("sequences", "tokens"), [(1, 1), (5, 7), (3, 33), (2, 1100)])
def test_counts_and_rows(sequences, tokens, left_out):
    given = batch(sequences + tokens, sequences, tokens, left_out)
    mask = given["attention_mask"]
    is_token = torch.ones(sequences, tokens, dtype=torch.bool) if mask is None else mask.bool()
    found = count(given, sequences, tokens)
    assert found.tolist() == [is_token.sum(1).tolist(), [0] * sequences]

    # A capacity of two more sequences, and of more rows than there are.
    total, more = int(is_token.sum()), 3
    offsets = torch.tensor([0, *is_token.sum(1).cumsum(0).tolist(), total, total])
    integers = [poisoned(total + more, dtype=torch.int64) for _ in range(5)]
    ids, kinds, position_ids, positions, token_index = integers
    accumulated = poisoned(total + more, dtype=torch.float32)
    row_of_place = poisoned(sequences * tokens, dtype=torch.int64)
    running, moved = (poisoned(offsets.numel(), dtype=torch.int64) for _ in range(2))
    op("pack_tokens")(
        *given.values(), offsets, tokens,
        row_of_place, ids, kinds, position_ids, positions, accumulated, token_index, running, moved,
    )  # fmt: skip
    places = is_token.flatten().nonzero().squeeze(1)
    columns = places % tokens

    def expected(name: str, otherwise: torch.Tensor) -> list:
        if given[name] is None:
            return otherwise.tolist()
        return given[name].flatten()[places].long().tolist()

    poison = [poisoned(1, dtype=torch.int64).item()] * more
    assert ids.tolist() == expected("input_ids", places) + poison
    assert kinds.tolist() == expected("token_type_ids", places * 0) + poison
    assert position_ids.tolist() == expected("position_ids", columns) + poison
    assert positions.tolist() == columns.tolist() + poison
    assert token_index.tolist() == list(range(total)) + poison
    assert accumulated[:total].tolist() == [0] * total
    assert accumulated[total:].isnan().all()
    assert torch.equal(running, offsets)
    assert torch.equal(moved, offsets)
    rows = torch.full((sequences * tokens,), -1)
    rows[places] = torch.arange(total)
    assert torch.equal(row_of_place, rows)


def test_every_place_out_of_range_is_counted():
    given = batch(3, 4, 37)
    for name, at, value in (
        ("input_ids", (0, 36), 50),
        ("token_type_ids", (1, 0), 3),
        ("token_type_ids", (1, 5), 77),
        ("position_ids", (3, 3), 40),
    ):
        given[name][at] = value
    given["input_ids"] = given["input_ids"].long()
    given["input_ids"][1, 0] = -1  # a place is counted once
    given["attention_mask"] = given["attention_mask"].double()
    for column, value in enumerate((2.0, -1.0, float("nan"), 0.5, 1 + 1e-15)):
        given["attention_mask"][2, column] = value
    assert count(given, 4, 37)[1].tolist() == [1, 2, 5, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [1, 48, 130])
def test_rows_go_back_to_their_places(dtype, width):
    generator = torch.Generator().manual_seed(width)
    is_token = torch.rand(3, 11, generator=generator) < 0.6
    total = int(is_token.sum())
    rows = torch.randn(total + 4, width + 3, generator=generator).to(dtype)[:, 1 : width + 1]
    n_updates, remainders = torch.rand(2, total + 4, generator=generator)
    for left in (rows, n_updates, remainders):
        left[total:] = float("nan")
    row_of_place = torch.where(is_token, is_token.flatten().cumsum(0).view(3, 11) - 1, -1).flatten()
    out = poisoned(33, width, dtype=dtype)
    others = [poisoned(33, dtype=torch.float32) for _ in range(2)]
    op("unpack_rows")(rows, n_updates, remainders, row_of_place, out, *others)
    for found, packed in zip((out, *others), (rows, n_updates, remainders), strict=True):
        expected = torch.zeros_like(found)
        expected[is_token.flatten()] = packed[:total]
        assert torch.equal(found, expected)


CHANGES = {
    "as they come": lambda inputs: inputs,
    "int32 and a mask of floats": lambda inputs: {
        **inputs,
        "input_ids": inputs["input_ids"].int(),
        "attention_mask": inputs["attention_mask"].half(),
    },
    "columns apart": lambda inputs: {
        k: v.t().contiguous().t() for k, v in inputs.items() if v.dim() == 2
    },
    "positions of one sequence": lambda inputs: {
        **inputs,
        "position_ids": torch.arange(inputs["input_ids"].size(1)).flip(0),
    },
    "no mask": lambda inputs: {"input_ids": inputs["input_ids"]},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("position", ["absolute", "relative_key"])
def test_a_model_from_ids_to_padded_states(change, position):
    model = random_model(4, num_hidden_layers=3, position_embedding_type=position)
    mask = mask_of([6, 0, 11])
    mask[0, 2], mask[2, :3] = 0, 0  # a hole, and padding on the left
    inputs = CHANGES[change](random_batch(4, model.config, mask))
    given = inputs.get("attention_mask", torch.ones(inputs["input_ids"].shape))
    before = len(triton_interpreter.launches)
    output = run(model, "triton", **inputs)
    names = [name for name, _ in triton_interpreter.launches[before:]]
    assert names[:4] == ["count_tokens", "pack_tokens", "embed_tokens", "linear"]
    assert names[-1] == "unpack_rows"
    assert_parity(output, trace_reference(model, **inputs), given)


def test_given_embeddings():
    model = random_model(5, num_hidden_layers=3)
    mask = mask_of([4, 9])
    embeds = torch.randn(9, 2, model.config.embedding_size).transpose(0, 1)
    inputs = {"inputs_embeds": embeds, "attention_mask": mask}
    assert_parity(run(model, "triton", **inputs), trace_reference(model, **inputs), mask)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_given_on_another_device_goes_to_that_of_the_ids(transposed):
    batch = object.__new__(padded.PaddedBatch)
    batch._inputs = SimpleNamespace(source=torch.empty(2, 3, device="meta"))
    found = batch._readable(torch.ones(3, 2).t() if transposed else torch.ones(2, 3))
    assert (found.device.type, found.shape, found.stride(1)) == ("meta", (2, 3), 1)


def test_a_batch_without_a_token():
    model = random_model(6, num_hidden_layers=3)
    inputs = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.zeros(2, 3)}
    output, expected = run(model, "triton", **inputs), run(model, "reference", **inputs)
    for name in ("last_hidden_state", "n_updates", "remainders", "pooler_output"):
        assert torch.equal(getattr(output, name), getattr(expected, name)), name


WRONG = {
    "an id too large": {"input_ids": 10**6},
    "a negative id at padding": {"input_ids": -1},
    "a token type": {"token_type_ids": 9},
    "a position": {"position_ids": 10**4},
    "a mask of 2": {"attention_mask": 2},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_out_of_range_is_named_as_ever(wrong):
    model = random_model(7, num_hidden_layers=2)
    inputs = random_batch(7, model.config, mask_of([5, 3]))
    shape = inputs["input_ids"].shape
    inputs["position_ids"] = torch.arange(shape[1]).repeat(2, 1)
    for name, value in WRONG[wrong].items():
        inputs[name] = inputs[name].clone()
        inputs[name][1, -1] = value
    messages = []
    for implementation in ("reference", "triton"):
        with pytest.raises(ValueError, match=next(iter(WRONG[wrong]))) as error:
            run(model, implementation, **inputs)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


class Recorded(TorchDispatchMode):
    """Operators that compute or copy; views and new memory leave the device alone."""

    IDLE = frozenset("empty new_empty view slice unsqueeze detach lift_fresh".split())

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        if name not in self.IDLE:
            self.names.append(name)
        return function(*arguments, **(keywords or {}))


def test_six_launches_around_the_iterations_and_nothing_else(monkeypatch):
    """That the host waits once cannot be seen without a device: the counts come by one `cpu()`."""
    model = random_model(8, num_hidden_layers=2, add_pooling_layer=False)
    inputs = random_batch(8, model.config, mask_of([5, 3]))
    monkeypatch.setattr(gpu, "launch_all", lambda *_: None)
    with Recorded() as recorded, torch.no_grad():
        model(**inputs, implementation="triton")
    # `add` is the ponder cost's; buffers are zeros when they are made.
    assert [name for name in recorded.names if name not in ("add", "zeros")] == [
        "count_tokens",
        "copy_",  # offsets, to the device
        "pack_tokens",
        "embed_tokens",
        "linear",
        "unpack_rows",
    ]


@pytest.mark.parametrize(
    "path", ["embeddings.word_embeddings", "encoder.embedding_hidden_mapping_in"]
)
def test_modules_that_must_be_called_are(path):
    model = random_model(9, num_hidden_layers=2)
    mask = mask_of([5, 3])
    inputs = random_batch(9, model.config, mask)
    weight_norm(model.get_submodule(path))
    before = len(triton_interpreter.launches)
    output = run(model, "triton", **inputs)
    assert "count_tokens" not in [name for name, _ in triton_interpreter.launches[before:]]
    assert_parity(output, trace_reference(model, **inputs), mask)
