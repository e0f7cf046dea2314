"""An encoder for several processes: its weights lie once in memory, mapped into each."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from albert_act_fast import TextEncoder


class SharedEncoder:
    """What another process needs to have the same encoder.

    Attributes:
        pickled: the encoder without its weights.
        path: of a safetensors file of its weights, for a process that inherits `descriptor`.
        descriptor: of a file in memory; None where the system has none, and the file is on disk.
    """

    def __init__(self, encoder: TextEncoder):
        from safetensors.torch import save

        buffer = io.BytesIO()
        pickler = _Pickler(buffer)
        pickler.dump(encoder)
        self.pickled = buffer.getvalue()
        weights = save({key: tensor.detach().contiguous() for key, tensor in pickler.found.items()})
        if hasattr(os, "memfd_create"):
            # No file that something could clean up while the service runs.
            self._file = os.fdopen(os.memfd_create("weights", 0), "wb")
            self.descriptor: int | None = self._file.fileno()
            self.path = f"/proc/self/fd/{self.descriptor}"
        else:
            self._file = tempfile.NamedTemporaryFile(suffix=".safetensors")  # noqa: SIM115
            self.descriptor, self.path = None, self._file.name
        self._file.write(weights)
        self._file.flush()

    def close(self) -> None:
        """No further process can have it."""
        self._file.close()


def load(pickled: bytes, path: str) -> TextEncoder:
    """The encoder of a SharedEncoder, in another process."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as weights:
        unpickler = pickle.Unpickler(io.BytesIO(pickled))

        def tensor(key: tuple[str, bool]):
            name, is_parameter = key
            found = weights.get_tensor(name)
            return nn.Parameter(found, requires_grad=False) if is_parameter else found

        unpickler.persistent_load = tensor
        return unpickler.load()


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file)
        self.found: dict[str, torch.Tensor] = {}
        self._names: dict[int, str] = {}

    def persistent_id(self, value):
        if not isinstance(value, torch.Tensor) or value.device.type != "cpu":
            return None
        name = self._names.setdefault(id(value), f"tensor{len(self._names)}")
        self.found[name] = value
        return name, isinstance(value, nn.Parameter)
