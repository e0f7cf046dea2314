"""Weights that TensorFlow wrote: a Keras model's tf_model.h5 (by h5py, without TensorFlow), or a
checkpoint of the pre-training code (by TensorFlow's own reader)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from albert_act_fast import tf_names

logger = logging.get_logger(__name__)
WEIGHTS_NAME = "tf_model.h5"
_ENCODER_PARTS = ("embeddings.", "encoder.", "pooler.")
_HEADS = ("predictions.", "sop_classifier.", "classifier.", "qa_outputs.")


@dataclass
class TensorFlowWeights:
    """weights: by our names, in our layout, without the prefix `albert.`; unknown: variables that
    the table does not have, left out."""

    weights: dict[str, Tensor]
    unknown: list[str] = field(default_factory=list)

    def state_dict(self, task_model: bool) -> dict[str, Tensor]:
        """As a model's own: task models prefix the encoder's names."""
        prefix = "albert." if task_model else ""
        return {
            (prefix if name.startswith(_ENCODER_PARTS) else "") + name: tensor
            for name, tensor in self.weights.items()
        }

    def without_heads(self) -> TensorFlowWeights:
        kept = {n: t for n, t in self.weights.items() if n.startswith(_ENCODER_PARTS)}
        return TensorFlowWeights(kept, self.unknown)

    @property
    def heads(self) -> set[str]:
        """Names of the heads that there are weights of."""
        return {
            head.removesuffix(".")
            for head in _HEADS
            if any(name.startswith(head) for name in self.weights)
        }

    def model_class(self) -> str:
        """The name of the class of this package that has these heads.

        Raises:
            ValueError: no class has them all.
        """
        heads = frozenset(self.heads)
        known = {
            frozenset(): "AlbertActModel",
            frozenset({"predictions", "sop_classifier"}): "AlbertActForPreTraining",
            frozenset({"predictions"}): "AlbertActForMaskedLM",
            frozenset({"classifier"}): "AlbertActForSequenceClassification",
            frozenset({"qa_outputs"}): "AlbertActForQuestionAnswering",
        }
        if heads not in known:
            raise ValueError(f"no model has these heads together: {', '.join(sorted(heads))}.")
        return known[heads]


def read_h5(path: str | os.PathLike) -> TensorFlowWeights:
    """
    Raises:
        ImportError: h5py is not installed. OSError: the file cannot be read.
        ValueError: a weight is there twice.
    """
    h5py = _h5py()
    found: list[tuple[str, object]] = []  # a name may stand in several groups

    def take(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.append((name, item[()]))

    with h5py.File(path, "r") as file:
        for group in file.values():  # one a layer, whose variables have their full names in it
            if isinstance(group, h5py.Group):
                group.visititems(take)
    return _translated(path, found)


def write_h5(model: torch.nn.Module, path: str | os.PathLike) -> None:
    """Writes a model's weights as the published Keras class keeps them.

    Args:
        model: one of this package's.

    Raises:
        ImportError: h5py is not installed.
        ValueError: it has weights that the Keras class does not know.
    """
    h5py = _h5py()
    rows = {row.ours: row for row in tf_names.TABLE}
    state = {name.removeprefix("albert."): t for name, t in model.state_dict().items()}
    # Both are other names of weights that are there.
    state = {n: t for n, t in state.items() if not n.startswith("predictions.decoder.")}
    unknown = sorted(set(state) - set(rows))
    if unknown:
        raise ValueError(f"model: Keras' class has no variable for {', '.join(unknown)}.")
    scope = "tf_" + _snake(type(model).__name__)
    layers: dict[str, list[tuple[str, Tensor]]] = {}
    for ours, tensor in state.items():
        row = rows[ours]
        encoder = ours.startswith(_ENCODER_PARTS)
        layer = "albert" if encoder else row.keras.split("/")[0]
        variable = f"{scope}/{'albert/' if encoder else ''}{row.keras}:0"
        values = tensor.detach().cpu().float()
        layers.setdefault(layer, []).append((variable, values.T if row.transposed else values))
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"] = b"tensorflow"
        for name, variables in layers.items():
            group = file.create_group(name)
            group.attrs["weight_names"] = [variable.encode() for variable, _ in variables]
            for variable, values in variables:
                group.create_dataset(variable, data=values.contiguous().numpy())


def read_checkpoint(prefix: str | os.PathLike) -> TensorFlowWeights:
    """
    Args:
        prefix: what the checkpoint's files begin with, as in "model.ckpt-112500".

    Raises:
        ImportError: TensorFlow is not installed.
        OSError: there is no such checkpoint. ValueError: a weight is there twice.
    """
    prefix = os.fspath(prefix)
    if not os.path.exists(f"{prefix}.index"):
        raise OSError(f"no checkpoint here: there is no {prefix}.index")
    try:
        from tensorflow.train import load_checkpoint
    except ImportError as error:
        raise ImportError(
            "a TensorFlow checkpoint is read by TensorFlow: pip install "
            "'albert_act_fast[tensorflow]'"
        ) from error
    reader = load_checkpoint(prefix)
    names = [n for n in reader.get_variable_to_shape_map() if not tf_names.is_no_weight(n)]
    return _translated(prefix, ((name, reader.get_tensor(name)) for name in sorted(names)))


def read(source: str | os.PathLike) -> TensorFlowWeights:
    """A folder with tf_model.h5, an .h5 file, or a checkpoint's prefix."""
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS_NAME
    if path.suffix in (".h5", ".hdf5"):
        if not path.is_file():
            raise OSError(f"no TensorFlow weights here: there is no {path}")
        return read_h5(path)
    return read_checkpoint(source)


def weights_of_tensorflow(model_class: type, name: str | os.PathLike, settings: dict) -> dict:
    """What `from_pretrained` needs to make a model of a `tf_model.h5`: `config`, `state_dict`.

    Args:
        name: a folder or a hub name.
        settings: what else `from_pretrained` was given.

    Raises:
        OSError: it has no `tf_model.h5`. ImportError: h5py is not installed.
    """
    from transformers.utils import cached_file

    hub = {k: settings[k] for k in ("cache_dir", "revision", "local_files_only") if k in settings}
    config = settings.get("config")
    if not hasattr(config, "to_dict"):
        config = model_class.config_class.from_pretrained(config or name, **hub)
    found = read_h5(cached_file(os.fspath(name), WEIGHTS_NAME, **hub))
    if found.unknown:
        logger.warning(
            f"{name}: {WEIGHTS_NAME} has variables that are none of ALBERT-ACT's, left out: "
            f"{', '.join(found.unknown)}."
        )
    task_model = model_class.__name__ != "AlbertActModel"
    weights = found if task_model else found.without_heads()
    return {"config": config, "state_dict": weights.state_dict(task_model)}


def _translated(source, variables: Iterable[tuple[str, object]]) -> TensorFlowWeights:
    found: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    unknown = []
    for variable, values in variables:
        if tf_names.is_no_weight(variable):
            continue
        known = tf_names.find(variable)
        if known is None:
            unknown.append(variable)
            continue
        row, transposed = known
        if row.ours in found:
            raise ValueError(
                f"{source}: {names[row.ours]} and {variable} are both {row.ours}, expected one."
            )
        tensor = torch.as_tensor(values)
        names[row.ours] = variable
        found[row.ours] = tensor.T.contiguous() if transposed else tensor
    return TensorFlowWeights(found, unknown)


def _h5py():
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{WEIGHTS_NAME} is read and written by h5py: pip install 'albert_act_fast[h5]'"
        ) from error
    return h5py


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
