"""Files of texts: lines, JSON lines, CSV, TSV, Parquet; gzip and Zstandard around them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

HELP = (
    "One text a line, UTF-8; or .jsonl, .csv, .tsv (with a line of names), .parquet. .gz and .zst "
    "are unpacked; - is standard input, one text a line."
)
_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
WITH_FIELDS = tuple(_KINDS)
_COMPRESSED = (".gz", ".zst")
_DEFAULT_FIELD = "text"
# A line of more bytes is taken for a file that holds no lines.
_LONGEST_LINE = 1 << 26
_PARQUET_ROWS = 1024


class Malformed(Exception):
    """What stands in a file is not what its format asks for; continues "got NAME, "."""


@dataclass(frozen=True)
class OpenedFile:
    """records: numbers from 1 and texts; unit: what the numbers count; position and total: how
    much was read, and of how much."""

    records: Iterable[tuple[int, str]]
    unit: str
    position: Callable[[], float]
    total: float | None


def kind_of(path: str) -> str:
    """What the name of a file says about its format: "lines" where it says nothing."""
    root, suffix = os.path.splitext(path.lower())
    if suffix in _COMPRESSED:
        suffix = os.path.splitext(root)[1]
    return _KINDS.get(suffix, "lines")


def open_file(argument: str, path: str, kind: str, field: str | None) -> OpenedFile:
    """
    Raises:
        OSError: it cannot be opened; of what is missing to read it, CommandError.
    """
    if kind == "parquet":
        return _open_parquet(argument, path, field)
    if path == "-":
        from albert_act_fast.cli.texts import needs_standard_input

        needs_standard_input(argument)
        raw, total = sys.stdin.buffer, None
    else:
        raw = open(path, "rb")  # noqa: SIM115 - read until the command ends
        total = os.fstat(raw.fileno()).st_size or None
    counted = _Counted(raw)
    lines = _lines(_unpacked(argument, path, counted))
    if kind == "lines":
        records: Iterator[tuple[int, str]] = lines
    elif kind == "jsonl":
        records = _json_records(lines, field or _DEFAULT_FIELD)
    else:
        records = _table_records(lines, kind, field or _DEFAULT_FIELD)
    return OpenedFile(records, "line", lambda: counted.bytes, total)


class _Counted(io.RawIOBase):
    """Counts the bytes that were read."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self.bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        # read1, where there is one: what a pipe has now, not what it may have later.
        read = getattr(self._raw, "read1", self._raw.read)
        data = read(len(buffer))
        buffer[: len(data)] = data
        self.bytes += len(data)
        return len(data)


def _unpacked(argument: str, path: str, raw: io.RawIOBase) -> io.BufferedIOBase:
    buffered = io.BufferedReader(raw, 1 << 16)
    if path.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=buffered)
    if path.lower().endswith(".zst"):
        pyarrow = _pyarrow(argument, path)
        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(buffered, "r"), "zstd")
        return io.BufferedReader(_ReadOnly(stream), 1 << 16)
    return buffered


class _ReadOnly(io.RawIOBase):
    """A stream of pyarrow as one of Python."""

    def __init__(self, stream):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _pyarrow(argument: str, path: str):
    from albert_act_fast.cli.errors import CommandError

    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CommandError(
            f"{argument}: got {path!r}, which needs the package pyarrow: pip install "
            "'albert_act_fast[files]'"
        ) from None
    return pyarrow


def _lines(stream: io.BufferedIOBase) -> Iterator[tuple[int, str]]:
    number = 0
    while True:
        try:
            data = stream.readline(_LONGEST_LINE + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Malformed(f"which cannot be unpacked after line {number}: {error}") from None
        if not data:
            return
        number += 1
        yield number, _text_of(data, number)


def _text_of(data: bytes, number: int) -> str:
    if number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Malformed(
            "expected UTF-8: it begins with the mark of UTF-16 (iconv -f UTF-16 -t UTF-8 converts)"
        )
    if b"\0" in data:
        raise Malformed(
            f"expected text: line {number} has a NUL byte (UTF-16? iconv -f UTF-16LE -t UTF-8 "
            "converts)"
        )
    if len(data) > _LONGEST_LINE:
        raise Malformed(
            f"expected a text a line: line {number} is longer than {_LONGEST_LINE >> 20} MiB"
        )
    try:
        text = data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        # A mark at the file's beginning is not part of what was decoded.
        found = error.object[error.start]
        raise Malformed(
            f"expected UTF-8: line {number} has the byte 0x{found:02x} ({error.reason})"
        ) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if "\r" in text:
        raise Malformed(
            f"expected lines that end in a line feed: line {number} has a carriage return inside "
            "(tr '\\r' '\\n' converts line ends of old Macs)"
        )
    return text


def _json_records(lines: Iterator[tuple[int, str]], field: str) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if not line.strip():
            yield number, ""
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise Malformed(f"expected JSON on every line: line {number}: {error}") from None
        if not isinstance(record, dict) or field not in record:
            has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise Malformed(
                f"expected an object with the key {field!r} on every line: line {number} has {has} "
                "(--field names another key)"
            )
        yield number, _string(record[field], f"line {number}", field)


def _string(value: object, place: str, field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"expected strings: {place} has {type(value).__name__} in {field!r}")
    return value


def _table_records(
    lines: Iterator[tuple[int, str]], kind: str, field: str
) -> Iterator[tuple[int, str]]:
    # Comma-separated values quote what holds a comma, a quote or the end of a line; values
    # separated by tabs quote nothing.
    quoting = {"quoting": csv.QUOTE_NONE, "delimiter": "\t"} if kind == "tsv" else {}
    csv.field_size_limit(_LONGEST_LINE)
    rows = csv.reader((line + "\n" for _, line in lines), strict=True, **quoting)
    try:
        names = next(rows, [])
        if field not in names:
            raise Malformed(
                f"expected a column {field!r}, got {', '.join(names) or 'nothing'} (--field names "
                "another)"
            )
        column = names.index(field)
        for row in rows:
            if not row:
                yield rows.line_num, ""
                continue
            if len(row) != len(names):
                raise Malformed(
                    f"expected {len(names)} values on every line, as names in the first: line "
                    f"{rows.line_num} has {len(row)}"
                )
            yield rows.line_num, row[column]
    except csv.Error as error:
        raise Malformed(f"expected {kind.upper()}: line {rows.line_num}: {error}") from None


def _open_parquet(argument: str, path: str, field: str | None) -> OpenedFile:
    pyarrow = _pyarrow(argument, path)
    field = field or _DEFAULT_FIELD
    with open(path, "rb"):  # an error of the system's own, in its own words
        pass
    read = [0]
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        from albert_act_fast.cli.errors import CommandError, one_line

        raise CommandError(
            f"{argument}: got {path!r}, which cannot be read as Parquet: {one_line(error)}"
        ) from None

    def records() -> Iterator[tuple[int, str]]:
        names = file.schema_arrow.names
        if field not in names:
            raise Malformed(
                f"expected a column {field!r}, got {', '.join(names)} (--field names another)"
            )
        try:
            for batch in file.iter_batches(_PARQUET_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    read[0] += 1
                    yield read[0], _string(value, f"row {read[0]}", field)
        except pyarrow.ArrowException as error:
            raise Malformed(f"which cannot be read after row {read[0]}: {error}") from None

    return OpenedFile(records(), "row", lambda: read[0], file.metadata.num_rows or None)
