"""`encode` that is cut off, and `--resume`: the file of an undisturbed run, nothing twice."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess

import numpy as np
import pytest
import torch
from support import forked

from albert_act_fast.cli import embeddings_file
from albert_act_fast.cli import encode as encode_command
from albert_act_fast.text import encoder as text_encoder

WINDOW = 256
LINES = [f"number {i} so it was {'the best ' * (i % 9)}" for i in range(3 * WINDOW - 50)]
FORMATS = [".npy", ".safetensors", ".jsonl", ".parquet"]


@pytest.fixture(autouse=True)
def _small_windows_and_one_thread(monkeypatch):
    monkeypatch.setattr(encode_command, "_WINDOW", WINDOW)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(LINES) + "\n")
    return file


@pytest.fixture
def arguments(texts, checkpoint, tmp_path):
    def make(name: str, *more) -> list:
        output = tmp_path / name
        return ["encode", texts, "-o", output, "--model", checkpoint, "--threads", "1", *more]

    return make


_KILLED = """
import os
from albert_act_fast.cli import encode, part
encode._WINDOW = {window}
checkpoint, calls = part.Part.checkpoint, []
def and_then(self, note):
    checkpoint(self, note)
    calls.append(note)
    if len(calls) == {after}:
        os.kill(os.getpid(), {number})
part.Part.checkpoint = and_then
"""


def kill(arguments: list, number: int, after: int) -> subprocess.CompletedProcess:
    code = _KILLED.format(window=WINDOW, number=int(number), after=after)
    return forked.run(code + forked.command(*arguments))


@pytest.fixture
def computed(monkeypatch):
    """Texts that went through the model."""
    compute, count = text_encoder.encode_packed, []

    def counting(model, batch, **kwargs):
        count.append(len(batch.lengths))
        return compute(model, batch, **kwargs)

    monkeypatch.setattr(text_encoder, "encode_packed", counting)
    return count


@pytest.mark.parametrize(
    ("suffix", "number", "after"),
    [
        (".npy", signal.SIGKILL, 1),
        (".safetensors", signal.SIGKILL, 2),
        (".jsonl", signal.SIGKILL, 1),
        (".parquet", signal.SIGKILL, 2),
        (".npy", signal.SIGTERM, 2),
        (".npy", signal.SIGINT, 1),
        (".npy", signal.SIGHUP, 1),
    ],
)
def test_killed_and_resumed(command, arguments, computed, tmp_path, suffix, number, after):
    whole, cut = f"whole{suffix}", f"cut{suffix}"
    assert command(*arguments(whole)).exit_code == 0
    computed.clear()
    result = kill(arguments(cut), number, after)
    if number == signal.SIGKILL:
        assert result.returncode == -number
    else:
        assert result.returncode == 128 + number
        assert f"{after * WINDOW} texts are done and kept in {tmp_path / cut}.part" in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / cut).exists()
    resumed = command(*arguments(cut, "--resume", "--json"))
    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["totals"]["resumed_at"] == after * WINDOW
    assert sum(computed) == len(LINES) - after * WINDOW
    assert (tmp_path / cut).read_bytes() == (tmp_path / whole).read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([cut, whole, "texts.txt"])


def test_a_full_disk_and_resumed(command, error, arguments, monkeypatch, tmp_path):
    assert command(*arguments("whole.npy")).exit_code == 0
    append, calls = embeddings_file.NpyWriter._append, []

    def full(self, texts, embeddings):
        calls.append(texts)
        append(self, texts, embeddings)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(embeddings_file.NpyWriter, "_append", full)
    message = error(*arguments("cut.npy"), status=1)
    assert "which cannot be written: No space left on device; 256 texts are done" in message
    assert command(*arguments("cut.npy", "--resume")).exit_code == 0
    assert (tmp_path / "cut.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve space")
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_too_little_space_is_found_before_the_work(arguments, computed, tmp_path, suffix):
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from albert_act_fast.text import encoder\n"
        "encoder.encode_packed = None\n"
    )
    result = forked.run(code + forked.command(*arguments("x" + suffix)))
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    (line,) = result.stderr.splitlines()
    assert "which cannot be written: File too large" in line
    assert os.listdir(tmp_path) == ["texts.txt"]


def test_a_bad_text_keeps_what_precedes_its_window(command, error, arguments, texts, tmp_path):
    good = texts.read_text()
    texts.write_text(good + "\n")  # an empty line at the end
    message = error(*arguments("cut.npy"))
    assert f"line {len(LINES) + 1} of {texts} is empty" in message
    assert "512 texts are done and kept" in message
    assert command(*arguments("cut.npy", "--resume", "--skip-empty")).exit_code == 0
    texts.write_text(good)
    assert command(*arguments("whole.npy")).exit_code == 0
    assert (tmp_path / "cut.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


class TestWhatCannotBeResumed:
    @pytest.fixture
    def cut(self, arguments):
        assert kill(arguments("cut.npy"), signal.SIGKILL, 1).returncode == -signal.SIGKILL
        return arguments

    def test_nothing(self, error, arguments, tmp_path):
        message = error(*arguments("x.npy", "--resume"))
        assert message.startswith("--resume: there is nothing to resume")
        assert os.listdir(tmp_path) == ["texts.txt"]

    def test_other_options(self, error, cut):
        message = error(*cut("cut.npy", "--resume", "--pooling", "cls"))
        assert "was begun with another model, tokenizer or options" in message

    def test_another_model(self, error, cut, texts, tmp_path):
        args = ["encode", texts, "-o", tmp_path / "cut.npy", "--resume"]
        assert "another model" in error(*args)

    def test_other_texts(self, error, cut, texts):
        texts.write_text("\n".join(["changed", *LINES[1:]]) + "\n")
        assert "are not those that" in error(*cut("cut.npy", "--resume"))

    def test_fewer_texts(self, error, cut, texts):
        texts.write_text("\n".join(LINES[:9]) + "\n")
        assert "are not those that" in error(*cut("cut.npy", "--resume"))

    def test_without_it_a_run_starts_anew_and_says_so(self, command, cut, tmp_path):
        result = command(*cut("cut.npy"))
        assert result.exit_code == 0
        assert "starting anew; 256 texts of a run that was cut off are dropped" in result.stderr
        assert np.load(tmp_path / "cut.npy").shape == (len(LINES), 48)
        assert sorted(os.listdir(tmp_path)) == ["cut.npy", "texts.txt"]


def test_what_a_killed_run_left_is_in_nobody_s_way(command, arguments, tmp_path):
    """Of a run with whatever process number, killed before its first window was done."""
    left = tmp_path / "x.npy.part"
    left.mkdir()
    (left / "data").write_bytes(b"half")
    (left / "note.new").write_bytes(b"{")
    assert command(*arguments("x.npy")).exit_code == 0
    assert np.load(tmp_path / "x.npy").shape == (len(LINES), 48)
    assert not left.exists()


def test_two_runs_at_once(error, arguments, tmp_path):
    part = tmp_path / "x.npy.part"
    part.mkdir()
    lock = os.open(part, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        assert "which another run is writing" in error(*arguments("x.npy", "--force"))
        assert part.exists()
    finally:
        os.close(lock)


class TestWhatIsNoRegularFile:
    @pytest.mark.parametrize("force", [[], ["--force"]])
    def test_a_pipe(self, error, arguments, tmp_path, force):
        os.mkfifo(tmp_path / "x.npy")
        assert "which is no regular file" in error(*arguments("x.npy", *force))
        assert (tmp_path / "x.npy").is_fifo()

    def test_a_device_behind_a_link(self, error, arguments, tmp_path):
        (tmp_path / "x.npy").symlink_to("/dev/null")
        assert "which is no regular file" in error(*arguments("x.npy", "--force"))
        assert os.path.realpath(tmp_path / "x.npy") == "/dev/null"

    def test_a_folder(self, error, arguments, tmp_path):
        (tmp_path / "x.npy").mkdir()
        assert "a folder; expected a file" in error(*arguments("x.npy", "--force"))


def test_names_that_are_too_long(command, error, arguments, tmp_path):
    message = error(*arguments("x" * 300 + ".npy"))
    assert "which cannot be written: File name too long" in message
    assert len(message) < 300
    # One that just fits, but not with .part behind it.
    name = "x" * 250 + ".npy"
    assert command(*arguments(name)).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["texts.txt", name]


def test_a_folder_that_may_not_be_written(error, arguments, monkeypatch, tmp_path):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert "which cannot be written: Permission denied" in error(*arguments("x.npy"))
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["texts.txt"]


def test_mode_of_the_file_that_is_replaced_stays(command, arguments, tmp_path):
    (tmp_path / "x.npy").touch(0o600)
    os.chmod(tmp_path / "x.npy", 0o640)
    assert command(*arguments("x.npy", "--force")).exit_code == 0
    assert (tmp_path / "x.npy").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("count", [1, 2, 3])
def test_safetensors_of_an_odd_width(command, texts, tmp_path, count):
    """Line numbers are 64-bit: readers want them at multiples of 8 bytes."""
    from safetensors import safe_open
    from support.models import random_model

    random_model(0, "odd", vocab_size=30000).save_pretrained(tmp_path / "odd")
    texts.write_text("so\n" * count)
    args = ["encode", texts, "-o", tmp_path / "x.safetensors", "--model", tmp_path / "odd"]
    assert command(*args).exit_code == 0
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.get_tensor("embeddings").shape == (count, 35)
        assert file.get_tensor("lines").tolist() == list(range(1, count + 1))
        assert json.loads(file.metadata()["made_with"])["pooling"] == "mean"


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_formats_hold_the_same(command, arguments, tmp_path, suffix):
    from safetensors.numpy import load_file

    assert command(*arguments("x.npy")).exit_code == 0
    expected = np.load(tmp_path / "x.npy")
    name = f"y{suffix}"
    assert command(*arguments(name)).exit_code == 0
    file = tmp_path / name
    if suffix == ".npy":
        found, lines = np.load(file, mmap_mode="r"), None
    elif suffix == ".safetensors":
        tensors = load_file(file)
        found, lines = tensors["embeddings"], tensors["lines"].tolist()
    elif suffix == ".jsonl":
        records = [json.loads(line) for line in file.read_text().splitlines()]
        found = np.array([r["embedding"] for r in records], np.float32)
        lines = [r["line"] for r in records]
        assert [r["text"] for r in records] == LINES
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(file)
        found = np.stack(table["embedding"].to_numpy())
        lines = table["line"].to_pylist()
        assert table["text"].to_pylist() == LINES
        assert json.loads(table.schema.metadata[b"made_with"])["pooling"] == "mean"
    np.testing.assert_array_equal(found, expected)
    assert lines is None or lines == list(range(1, len(LINES) + 1))
