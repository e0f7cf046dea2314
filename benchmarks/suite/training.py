"""A training step, engine against reference loop: time, and what autograd keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from suite import timing
from suite.calibration import depths_by_class
from suite.cases import BASELINE, fixed
from suite.models import model_of
from suite.work import dense_work, needed_work

ENGINE = "torch float32"
# Relative, of the whole gradient; measured: 3e-6.
GRADIENT_ERROR = 1e-4
ROUNDS = 3


def training_rows(folder: Path, advance: Callable[[], None] = lambda: None) -> list[dict]:
    """A row for the reference and one for the engine; one without a time where gradients differ."""
    case = fixed("base", 8, 128)
    model, batch = model_of(case, folder).train(), case.inputs()

    def forward(name: str):
        implementation = name.split()[0]
        return model(batch.input_ids, batch.attention_mask, implementation=implementation)

    def step(name: str) -> None:
        model.zero_grad()
        output = forward(name)
        (output.last_hidden_state.square().mean() + 1e-3 * output.ponder_cost.mean()).backward()

    kept, gradients = {}, {}
    for name in (BASELINE, ENGINE):
        kept[name] = kept_for_backward(lambda name=name: forward(name))
        step(name)
        gradients[name] = torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )
        advance()
    difference = gradients[ENGINE] - gradients[BASELINE]
    error = (difference.norm() / gradients[BASELINE].norm()).item()
    with torch.no_grad():
        n_updates = forward(BASELINE).n_updates
    needed = needed_work(model.config, n_updates, batch.attention_mask)
    dense = dense_work(model.config, *batch.input_ids.shape, int(n_updates.max()))
    about = {
        "kind": "training",
        "case": "training step, " + case.name,
        "text": batch.source,
        "batch": case.batch,
        "length": case.length,
        "depths": depths_by_class(n_updates, batch),
        "dense_rows": dense.rows,
    }
    if not error <= GRADIENT_ERROR:
        wrong = f"{ENGINE}: gradients differ by {error:.1e}, at most {GRADIENT_ERROR} expected"
        return [{**about, "variant": ENGINE, "wrong": wrong}]
    calls = {name: (lambda name=name: step(name)) for name in (BASELINE, ENGINE)}
    seconds = timing.interleave(calls, dict.fromkeys(calls, 1.0), ROUNDS, advance)
    return [
        {
            **about,
            "variant": name,
            "dtype": "float32",
            **timing.figures(seconds[name], seconds[BASELINE]),
            "rows": work.rows,
            "work_saved": round(dense.rows / work.rows, 3),
            "kept_for_backward": kept[name],
            "error": error if name == ENGINE else 0.0,
        }
        for name, work in ((BASELINE, dense), (ENGINE, needed))
    ]


def kept_for_backward(run: Callable) -> int:
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
