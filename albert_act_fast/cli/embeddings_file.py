"""Files of embeddings: written beside their place and moved there when complete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from albert_act_fast.cli.errors import FAILURE, CommandError, file_error

if TYPE_CHECKING:
    import numpy as np

    from albert_act_fast.cli.running import TokenizedText

Writer = Callable[[Path, "np.ndarray", "Sequence[TokenizedText]", dict], None]

HELP = (
    ".npy: float32 [lines, hidden]. .safetensors: that as `embeddings`, int64 `lines` (numbers in "
    "INPUT_FILE) and how it was made as metadata. .jsonl: an object a line with line, text and "
    "embedding."
)


def writer_for(output: Path) -> Writer:
    """Raises CommandError for an extension that names no format; what it returns raises it when
    the file cannot be written."""
    write = _WRITERS.get(output.suffix.lower())
    if write is None:
        raise CommandError(
            f"--output: got {str(output)!r}, expected a name that ends in {', '.join(_WRITERS)}"
        )

    def writer(path: Path, *content) -> None:
        try:
            write(path, *content)
        except OSError as error:
            raise file_error("--output", output, error, "written", FAILURE) from None

    return writer


@contextmanager
def replacing(output: Path, *, force: bool) -> Iterator[Path]:
    """Gives a path to write to; on success that file becomes `output`, else it is removed.

    Raises:
        CommandError: `output` exists and `force` is off, or cannot be written; before the block
            is entered where that can be told.
    """
    # A link stays a link: what it points to is replaced.
    target = Path(os.path.realpath(output))
    if target.is_dir():
        raise CommandError(f"--output: got {str(output)!r}, a folder; expected a file")
    _refuse_existing(output, target, force)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.open("xb").close()
    except OSError as error:
        raise file_error("--output", output, error, "written") from None
    try:
        yield partial
        # It may have come into being meanwhile.
        _refuse_existing(output, target, force)
        try:
            os.replace(partial, target)
        except OSError as error:
            raise file_error("--output", output, error, "written", FAILURE) from None
    finally:
        partial.unlink(missing_ok=True)


def _refuse_existing(output: Path, target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise CommandError(
            f"--output: got {str(output)!r}, which exists; expected a new file "
            "(--force overwrites it)"
        )


def _write_npy(path: Path, embeddings, texts, description) -> None:
    import numpy as np

    with path.open("wb") as file:
        np.save(file, embeddings)


def _write_safetensors(path: Path, embeddings, texts, description) -> None:
    import numpy as np
    from safetensors.numpy import save

    tensors = {
        "embeddings": embeddings,
        "lines": np.array([t.source.line for t in texts], dtype=np.int64),
    }
    path.write_bytes(save(tensors, {"made_with": json.dumps(description, ensure_ascii=False)}))


def _write_jsonl(path: Path, embeddings, texts, description) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for text, row in zip(texts, embeddings, strict=True):
            record = {
                "line": text.source.line,
                "text": text.source.text,
                # Nine digits are enough to give the same float32 back.
                "embedding": [float(f"{x:.9g}") for x in row.tolist()],
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


_WRITERS: dict[str, Writer] = {
    ".npy": _write_npy,
    ".safetensors": _write_safetensors,
    ".jsonl": _write_jsonl,
}
