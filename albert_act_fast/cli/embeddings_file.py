"""Files of embeddings, written as the embeddings come."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from albert_act_fast.cli.errors import CommandError
from albert_act_fast.cli.texts import SourceText

if TYPE_CHECKING:
    import numpy as np

HELP = (
    ".npy: float32 [lines, hidden]. .safetensors: that as `embeddings`, int64 `lines` (numbers in "
    "INPUT_FILE) and how it was made as metadata. .jsonl: an object a line with line, text and "
    "embedding. .parquet: columns line, text and embedding, and how it was made as metadata."
)
# Room for a header that is known only at the end.
_NPY_HEADER = 128


class Writer:
    """Rows of one file, appended and noted; a run that resumes goes on at its note.

    Args:
        folder: where the file is made.
        width: columns of an embedding.
        note: what `note` had returned, None for a new file.
    """

    def __init__(self, folder: Path, width: int, note: dict | None):
        self.path = folder / "data"
        self.width = width
        self.rows = 0 if note is None else note["rows"]
        self._bytes = {} if note is None else note["bytes"]
        self._files: dict[str, io.BufferedRandom] = {}

    def append(self, texts: Sequence[SourceText], embeddings: np.ndarray) -> None:
        """texts and float32 [len(texts), width]."""
        self._append(texts, embeddings)
        self.rows += len(texts)

    def note(self) -> dict:
        """How far it got; all of that is on its way to the disk when this returns."""
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            self._bytes[name] = file.tell()
        return {"rows": self.rows, "bytes": dict(self._bytes)}

    def reserve(self, rows: int) -> None:
        """Takes the disk space that so many rows will need.

        Raises:
            OSError: there is not enough.
        """

    def finish(self, description: dict) -> Path:
        """The complete file."""
        path = self._finish(description)
        self.close()
        return path

    def close(self) -> None:
        """Closes what is open; what is not noted is lost."""
        for file in self._files.values():
            file.close()
        self._files = {}

    def _append(self, texts, embeddings) -> None:
        raise NotImplementedError

    def _finish(self, description) -> Path:
        raise NotImplementedError

    def _file(self, name: str = "data", start: int = 0) -> io.BufferedRandom:
        """A file of the folder, to be written where it was noted, or from `start`."""
        if name not in self._files:
            path = self.path.with_name(name)
            file = self._files[name] = path.open("r+b" if path.exists() else "w+b")
            file.truncate(self._bytes.setdefault(name, start))
            file.seek(0, os.SEEK_END)
        return self._files[name]

    def _allocate(self, name: str, start: int, size: int) -> None:
        if not hasattr(os, "posix_fallocate"):
            return
        try:
            os.posix_fallocate(self._file(name, start).fileno(), 0, start + size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise

    def _end(self, name: str, start: int) -> io.BufferedRandom:
        """The file, cut to what was written."""
        file = self._file(name, start)
        file.truncate(file.tell())
        return file


class NpyWriter(Writer):
    """NumPy's own format, version 1.0."""

    def _append(self, texts, embeddings) -> None:
        self._file(start=_NPY_HEADER).write(embeddings.tobytes())

    def reserve(self, rows: int) -> None:
        self._allocate("data", _NPY_HEADER, rows * self.width * 4)

    def _finish(self, description) -> Path:
        fields = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        length = _NPY_HEADER - 10
        header = repr(fields).ljust(length - 1) + "\n"
        file = self._end("data", _NPY_HEADER)
        file.seek(0)
        file.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + header.encode("ascii"))
        return self.path


class SafetensorsWriter(Writer):
    """Rows in one file, line numbers in another until the end."""

    def __init__(self, folder: Path, width: int, note: dict | None):
        super().__init__(folder, width, note)
        # How it was made is known only at the end, but for some numbers.
        self._start = 1 << 16

    def _append(self, texts, embeddings) -> None:
        import numpy as np

        self._file(start=self._start).write(embeddings.tobytes())
        lines = np.array([t.line for t in texts], dtype="<i8")
        self._file("lines").write(lines.tobytes())

    def reserve(self, rows: int) -> None:
        self._allocate("data", self._start, rows * (self.width * 4 + 8))

    def _finish(self, description) -> Path:
        file, lines = self._end("data", self._start), self._file("lines")
        size = self.rows * self.width * 4
        # Readers want 64-bit numbers at multiples of 8 bytes, and no holes: what ends elsewhere is
        # written anew, in another order.
        metadata = {"made_with": json.dumps(description, ensure_ascii=False)}
        if size % 8:
            return self._copied(metadata)
        header = {
            "__metadata__": metadata,
            "embeddings": {
                "dtype": "F32",
                "shape": [self.rows, self.width],
                "data_offsets": [0, size],
            },
            "lines": {
                "dtype": "I64",
                "shape": [self.rows],
                "data_offsets": [size, size + 8 * self.rows],
            },
        }
        encoded = json.dumps(header, ensure_ascii=False).encode()
        room = self._start - 8
        if len(encoded) > room:
            return self._copied(metadata)
        lines.seek(0)
        _copy(lines, file)
        file.seek(0)
        file.write(room.to_bytes(8, "little") + encoded.ljust(room))
        return self.path

    def _copied(self, metadata: dict) -> Path:
        import numpy as np
        from safetensors.numpy import save_file

        self.close()
        rows = np.memmap(self.path, "<f4", "r", self._start, (self.rows, self.width))
        lines = np.fromfile(self.path.with_name("lines"), "<i8")
        path = self.path.with_name("complete")
        save_file({"embeddings": np.asarray(rows), "lines": lines}, path, metadata)
        return path


class JsonlWriter(Writer):
    """An object a line."""

    def _append(self, texts, embeddings) -> None:
        file = self._file()
        for text, row in zip(texts, embeddings, strict=True):
            record = {
                "line": text.line,
                "text": text.text,
                # Nine digits are enough to give the same float32 back.
                "embedding": [float(f"{x:.9g}") for x in row.tolist()],
            }
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def _finish(self, description) -> Path:
        self._end("data", 0)
        return self.path


class ParquetWriter(Writer):
    """A stream of Arrow, which can be cut off and gone on with, made into Parquet at the end."""

    def _schema(self):
        import pyarrow as pa

        fields = [
            ("line", pa.int64()),
            ("text", pa.string()),
            ("embedding", pa.list_(pa.float32(), self.width)),
        ]
        return pa.schema(fields)

    def _append(self, texts, embeddings) -> None:
        import pyarrow as pa

        columns = [
            pa.array([t.line for t in texts], pa.int64()),
            pa.array([t.text for t in texts]),
            pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), self.width),
        ]
        batch = pa.record_batch(columns, schema=self._schema())
        # Each stands for itself, with its schema: a length, and a stream of one batch.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        data = sink.getvalue()
        file = self._file()
        file.write(data.size.to_bytes(8, "little"))
        file.write(data)

    def _finish(self, description) -> Path:
        import pyarrow as pa
        import pyarrow.parquet

        file = self._end("data", 0)
        file.seek(0)
        made_with = json.dumps(description, ensure_ascii=False)
        path = self.path.with_name("complete")
        schema = self._schema().with_metadata({"made_with": made_with})
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while size := file.read(8):
                for batch in pa.ipc.open_stream(file.read(int.from_bytes(size, "little"))):
                    writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        return path


def _copy(source, destination) -> None:
    import shutil

    shutil.copyfileobj(source, destination)


_WRITERS: dict[str, type[Writer]] = {
    ".npy": NpyWriter,
    ".safetensors": SafetensorsWriter,
    ".jsonl": JsonlWriter,
    ".parquet": ParquetWriter,
}


def writer_for(output: Path) -> type[Writer]:
    """
    Raises:
        CommandError: the extension names no format, or one that needs a package.
    """
    found = _WRITERS.get(output.suffix.lower())
    if found is None:
        raise CommandError(
            f"--output: got {str(output)!r}, expected a name that ends in {', '.join(_WRITERS)}"
        )
    if found is ParquetWriter:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise CommandError(
                f"--output: got {str(output)!r}, which needs the package pyarrow: pip install "
                "'albert_act_fast[files]'"
            ) from None
    return found
