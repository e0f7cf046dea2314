"""A training step, engine against reference loop: time, and what autograd keeps."""

from __future__ import annotations

import torch
from calibration import calibrated_model
from inputs import pretraining_batch
from interleaved import compare


def training_step(model, input_ids, attention_mask, implementation):
    model.zero_grad()
    output = model(input_ids, attention_mask, implementation=implementation)
    loss = output.last_hidden_state.square().mean() + 1e-3 * output.ponder_cost.mean()
    loss.backward()
    return loss


def kept_for_backward(run) -> int:
    """Bytes of distinct storage that autograd keeps of one forward, weights left out."""
    storages: dict[int, int] = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    kept = sum(storages.values())
    del result
    return kept


def test_training_step(benchmark, report):
    input_ids, attention_mask = pretraining_batch(8, 128)
    model = calibrated_model("base", input_ids, attention_mask)
    gradients, kept = {}, {}
    for implementation in ("reference", "torch"):
        kept[implementation] = kept_for_backward(
            lambda name=implementation: model(input_ids, attention_mask, implementation=name)
        )
        training_step(model, input_ids, attention_mask, implementation)
        gradients[implementation] = torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )
    reference = gradients["reference"]
    difference = (gradients["torch"] - reference).norm() / reference.norm()
    assert difference < 1e-4, f"gradients differ by {difference:.1e}"

    comparison = compare(
        benchmark,
        lambda: training_step(model, input_ids, attention_mask, "reference"),
        lambda: training_step(model, input_ids, attention_mask, "torch"),
        rounds=5,
    )
    with torch.no_grad():
        depth = model(input_ids, attention_mask).n_updates
    report(
        benchmark,
        case="training step, 8 x 128",
        engine="torch",
        comparison=comparison,
        rows_saved=depth.numel() * depth.max().item() / depth.sum().item(),
        depth=depth.mean().item(),
        kept_bytes=kept,
        memory_saved=kept["reference"] / kept["torch"],
        gradient_difference=difference.item(),
    )
