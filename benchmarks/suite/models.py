"""The models of a run, each calibrated once and kept in a folder, from which measuring processes
of their own load it."""

from __future__ import annotations

from pathlib import Path

import torch

from albert_act_fast import AlbertActForSequenceClassification, AlbertActModel, shipped_model
from suite.calibration import calibrated_model
from suite.cases import Case
from suite.inputs import fixed_batch


def model_folder(case: Case, folder: Path) -> Path:
    """Where the case's model is kept."""
    depth = "published" if case.depth is None else f"depth{case.depth:g}"
    return folder / f"{case.size}-{depth}"


def model_of(case: Case, folder: Path, device: str = "cpu") -> AlbertActModel:
    """The case's model, made and kept if it is not there yet."""
    kept = model_folder(case, folder)
    if not kept.exists():
        make_model(case).save_pretrained(kept)
    return AlbertActModel.from_pretrained(kept, dtype=torch.float32).eval().to(device)


def make_model(case: Case) -> AlbertActModel:
    if case.size == "shipped":
        task = AlbertActForSequenceClassification.from_pretrained(shipped_model("sst2"))
        return task.albert.float().eval()
    # Few [CLS] and [SEP] in a batch make for a wavering mean; hence eight sequences.
    return calibrated_model(case.size, fixed_batch(8, 128), case.depth)
