"""`model.exportable()`: the reference's numbers from one graph, at any batch and length."""

from __future__ import annotations

import pytest
import torch
from support import models
from torch import nn

import albert_act_fast as aaf

HEADS = [m for m in models.MODELS if m is not aaf.AlbertActForMultipleChoice]


def batches(cls=aaf.AlbertActModel) -> list[tuple]:
    """Ragged ones of several sizes; the last is one short sequence that halts early."""
    whole = models.batch(cls)
    names = ("input_ids", "attention_mask", "token_type_ids")
    one = tuple(whole[name] for name in names)
    two = tuple(t[:1, :5] for t in one)
    ids = models.ids(3, 20)
    three = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    return [one, two, three]


def expected(model, plain, batch) -> list[torch.Tensor]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad():
        out = model(**dict(zip(names, batch, strict=True)), implementation="reference")
    return [out[name] for name in plain.output_names]


def assert_same(found, wanted, names) -> None:
    for name, one, other in zip(names, found, wanted, strict=True):
        one = torch.as_tensor(one)
        if name == "n_updates":
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("cls", HEADS)
def test_the_loop_itself(cls):
    model = models.model(cls)
    plain = model.exportable()
    for batch in batches():
        with torch.no_grad():
            found = plain(*batch)
        assert_same(found, expected(model, plain, batch), plain.output_names)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
def test_other_positions(kind):
    model = models.model(position_embedding_type=kind)
    plain = model.exportable()
    for batch in batches():
        assert_same(plain(*batch), expected(model, plain, batch), plain.output_names)


class Constant(nn.Module):
    """Halting probabilities that are told."""

    def __init__(self, p: list[float]):
        super().__init__()
        self.p = torch.tensor([p])

    def forward(self, hidden):
        return self.p.expand(hidden.shape[:2])


@pytest.mark.parametrize("p", [[0.5, 0.5, 0.5], [0.5, 0.5, 0.2], [0.25, 0.5, 0.5]])
def test_a_sum_that_equals_the_threshold_does_not_ask_for_another_iteration(p):
    """0.5 is the threshold: such a token goes on only while others do."""
    model = models.model(act_epsilon=0.5)
    plain = model.exportable()
    # Behind the check, which refuses modules that it does not know.
    model.encoder.albert_layer.act = Constant(p)
    ids = models.ids(1, 3)
    batch = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    wanted = expected(model, plain, batch)
    assert_same(plain(*batch), wanted, plain.output_names)
    n_updates = wanted[-2][0].tolist()
    assert n_updates == {0.5: [1, 1, 1], 0.2: [2, 2, 3]}.get(
        p[2] if p[0] == 0.5 else None, n_updates
    )
    assert max(n_updates) < 8


@pytest.fixture(scope="module")
def exported():
    model = models.model()
    plain = model.exportable()
    with torch.no_grad():
        program = torch.export.export(
            plain, plain.example_inputs(), dynamic_shapes=plain.dynamic_shapes()
        )
    return model, plain, program


def test_torch_export(exported):
    model, plain, program = exported
    for batch in batches():
        found = program.module()(*batch)
        assert_same(found, expected(model, plain, batch), plain.output_names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
def test_torch_jit_trace():
    model = models.model()
    plain = model.exportable()
    with torch.no_grad():
        traced = torch.jit.trace(plain, plain.example_inputs())
        for batch in batches():
            assert_same(traced(*batch), expected(model, plain, batch), plain.output_names)


@pytest.fixture(scope="module")
def onnx_file(exported, tmp_path_factory):
    for needed in ("onnx", "onnxscript"):
        pytest.importorskip(needed, reason=f"{needed} is not installed (requirements/export.txt)")
    model, plain, _ = exported
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(
            plain,
            plain.example_inputs(),
            path,
            dynamo=True,
            dynamic_shapes=plain.dynamic_shapes(),
            input_names=list(plain.input_names),
            output_names=list(plain.output_names),
        )
    return model, plain, path


def test_onnxruntime(onnx_file):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, plain, path = onnx_file
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in batches():
        inputs = {n: t.numpy() for n, t in zip(plain.input_names, batch, strict=True)}
        found = session.run(list(plain.output_names), inputs)
        assert_same(found, expected(model, plain, batch), plain.output_names)


def test_openvino(onnx_file):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model, plain, path = onnx_file
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in batches():
        inputs = {n: t.numpy() for n, t in zip(plain.input_names, batch, strict=True)}
        out = compiled(inputs)
        found = [out[name] for name in plain.output_names]
        assert_same(found, expected(model, plain, batch), plain.output_names)


def test_what_cannot_be_exported_is_said():
    with pytest.raises(ValueError, match="AlbertActForMultipleChoice has no graph"):
        models.model(aaf.AlbertActForMultipleChoice).exportable()
    with pytest.raises(ValueError, match="training mode, expected eval mode"):
        models.model().train().exportable()
    quantized = models.model()
    quantized.config.quantization = "int8"
    with pytest.raises(ValueError, match="quantization: got 'int8', which only the engine"):
        quantized.exportable()
    hooked = models.model()
    hooked.encoder.albert_layer.ffn.register_forward_hook(lambda *args: None)
    with pytest.raises(ValueError, match="cannot be exported as it is, because"):
        hooked.exportable()
    model = models.model()
    with pytest.raises(RuntimeError, match=r"model\.exportable\(\)"):
        torch.export.export(model, (models.ids(2, 5),))


def test_weights_are_shared():
    model = models.model()
    plain = model.exportable()
    (batch, *_) = batches()
    with torch.no_grad():
        model.encoder.albert_layer.act.dense.bias += 1
    assert_same(plain(*batch), expected(model, plain, batch), plain.output_names)
