"""Other software on the same weights and inputs: ALBERT at fixed depth.

None of it knows halting, so that each runs every token, padding included, through all iterations.
Each is optional; one that is not installed is left out with the reason.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AlbertConfig
from transformers import AlbertModel as HFAlbertModel

from albert_act_fast import AlbertActModel
from suite.inputs import Batch

OPSET = 17
# onnxruntime's names; of the products alone, as its own guide for transformers has it.
QUANTIZED_OPERATORS = ["MatMul"]


@dataclass(frozen=True)
class Peer:
    """name: library and dtype; prepare: given an example and whether batches of other shapes will
    come, returns what gives a batch's last hidden state."""

    name: str
    why_not: Callable[[str], str | None]
    prepare: Callable[[AlbertActModel, Batch, Path, bool], Callable[[Batch], Tensor]]


def hugging_face(model: AlbertActModel, attention: str = "sdpa") -> HFAlbertModel:
    """transformers' ALBERT with the model's weights; what it lacks is the halting unit."""
    config = model.config.to_dict()
    known = AlbertConfig().to_dict()
    config = AlbertConfig(**{k: v for k, v in config.items() if k in known and k != "model_type"})
    config._attn_implementation = attention
    layer = "encoder.albert_layer_groups.0.albert_layers.0."
    weights = {}
    for key, value in model.state_dict().items():
        key = key.replace("encoder.albert_layer.LayerNorm", f"{layer}attention.LayerNorm")
        key = key.replace("encoder.albert_layer.", layer)
        if ".act.dense." not in key:
            weights[key] = value
    result = HFAlbertModel(config, add_pooling_layer=model.pooler is not None).eval()
    result.load_state_dict(weights)
    return result.to(model.device, model.dtype)


@torch.no_grad()
def fixed_depth(model: AlbertActModel, batch: Batch) -> Tensor:
    """[B, S, H], what the peers are to compute: the reference's layer, every iteration, no mix."""
    return model.fixed_depth(batch.input_ids, batch.attention_mask)


def not_installed(*packages: str) -> str | None:
    missing = [p for p in packages if importlib.util.find_spec(p) is None]
    return f"not installed: {', '.join(missing)} (requirements/bench.txt)" if missing else None


def no_inductor(device: str) -> str | None:
    if device == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "torch.compile needs a C++ compiler on the PATH"
    return None


def _on_cpu_with(*packages: str) -> Callable[[str], str | None]:
    return lambda device: not_installed(*packages) if device == "cpu" else "runs on CPUs alone here"


def _hf(dtype: str, compiled: bool) -> Peer:
    def prepare(model, example, folder, any_shape):
        hf = hugging_face(model).to(getattr(torch, dtype))
        if compiled:
            hf = torch.compile(hf)
        return lambda batch: hf(batch.input_ids, batch.attention_mask).last_hidden_state

    return Peer(
        f"HF {'compiled' if compiled else 'SDPA'} {dtype}",
        no_inductor if compiled else lambda device: None,
        prepare,
    )


def _flash_attention() -> Peer:
    def why_not(device):
        if not device.startswith("cuda"):
            return "needs a CUDA device"
        return not_installed("flash_attn")

    def prepare(model, example, folder, any_shape):
        hf = hugging_face(model, "flash_attention_2").to(torch.bfloat16)
        return lambda batch: hf(batch.input_ids, batch.attention_mask).last_hidden_state

    return Peer("FlashAttention bfloat16", why_not, prepare)


class _HiddenAlone(torch.nn.Module):
    def __init__(self, hf: HFAlbertModel):
        super().__init__()
        self.hf = hf

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.hf(input_ids, attention_mask).last_hidden_state


def onnx_file(model: AlbertActModel, batch: Batch, folder: Path, any_shape: bool = False) -> Path:
    """The model exported for this batch's shape, or for any, every iteration written out; the
    weights of all iterations are one set in the file, too."""
    shape = "any" if any_shape else "x".join(map(str, batch.input_ids.shape))
    names = ("input_ids", "attention_mask", "last_hidden_state")
    axes = {name: {0: "batch", 1: "length"} for name in names}
    file = folder / f"albert_{shape}.onnx"
    if not file.exists():
        hf = _HiddenAlone(hugging_face(model, "eager"))
        with torch.no_grad():
            torch.onnx.export(
                hf,
                (batch.input_ids, batch.attention_mask),
                file,
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state"],
                opset_version=OPSET,
                dynamic_axes=axes if any_shape else None,
                dynamo=False,
            )
    return file


def _feed(batch: Batch) -> dict:
    return {
        "input_ids": batch.input_ids.numpy(),
        "attention_mask": batch.attention_mask.numpy(),
    }


def _onnx_runtime(dtype: str) -> Peer:
    def prepare(model, example, folder, any_shape):
        import onnxruntime

        file = onnx_file(model, example, folder, any_shape)
        if dtype == "int8":
            file = _quantized(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda batch: torch.from_numpy(session.run(None, _feed(batch))[0])

    return Peer(f"ONNX Runtime {dtype}", _on_cpu_with("onnx", "onnxruntime"), prepare)


def _quantized(file: Path) -> Path:
    """With int8 weights, one factor for each output, and rows rounded when they are met."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = file.with_suffix(".int8.onnx")
    if not target.exists():
        quantize_dynamic(
            file,
            target,
            op_types_to_quantize=QUANTIZED_OPERATORS,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    return target


def _open_vino(dtype: str) -> Peer:
    def prepare(model, example, folder, any_shape):
        import openvino

        core = openvino.Core()
        file = onnx_file(model, example, folder, any_shape)
        if dtype == "int8":
            file = _post_training_quantized(core, file, example)
        precision = openvino.Type.bf16 if dtype == "bfloat16" else openvino.Type.f32
        compiled = core.compile_model(
            str(file),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        request = compiled.create_infer_request()
        output = compiled.output(0)
        return lambda batch: torch.from_numpy(request.infer(_feed(batch))[output])

    packages = ("onnx", "openvino", *(["nncf"] if dtype == "int8" else []))
    return Peer(f"OpenVINO {dtype}", _on_cpu_with(*packages), prepare)


def _post_training_quantized(core, file: Path, batch: Batch) -> Path:
    """int8 weights and activations, ranges found on the batch itself: the peer at its best."""
    import nncf
    import openvino

    target = file.with_suffix(".int8.xml")
    if not target.exists():
        quantized = nncf.quantize(
            core.read_model(str(file)),
            nncf.Dataset([_feed(batch)]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=1,
        )
        openvino.save_model(quantized, str(target))
    return target


PEERS = (
    *(_hf(dtype, compiled) for compiled in (False, True) for dtype in ("float32", "bfloat16")),
    *(_onnx_runtime(dtype) for dtype in ("float32", "int8")),
    *(_open_vino(dtype) for dtype in ("float32", "bfloat16", "int8")),
    _flash_attention(),
)
