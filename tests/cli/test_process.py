"""The command as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support import forked


def run(*args: str, **kwargs) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "albert_act_fast", *map(str, args)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=env, **kwargs)


def test_depth_from_another_folder(checkpoint, tmp_path):
    result = run("depth", "--json", "--model", checkpoint, input="so\nquiet .\n", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert [t["text"] for t in json.loads(result.stdout)["texts"]] == ["so", "quiet ."]


def test_hub_name_without_network(tmp_path):
    code = forked.command("depth", "so", "--model", "asi/albert-act-none")
    result = forked.run(code, HF_HOME=str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert "--model: got 'asi/albert-act-none' (no folder here, so a hub name)" in result.stderr


def test_libraries_add_no_line_of_their_own_to_an_error(checkpoint):
    # Longer than the tokenizer's own limit too, of which transformers warns.
    result = forked.run(forked.command("depth", "word " * 600, "--model", checkpoint))
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "TEXT 1: got over 40 tokens, expected at most 40" in result.stderr


def test_output_in_an_encoding_without_blocks(checkpoint):
    code = forked.command("depth", "so", "--model", checkpoint)
    result = forked.run(code, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "#" in result.stdout
    assert r"\u2581so" in result.stdout


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_terminated_encode_leaves_nothing(checkpoint, tmp_path):
    (tmp_path / "texts.txt").write_text("so\n")
    code = (
        "import os, signal\n"
        "from albert_act_fast.text import encoder\n"
        "encoder.encode_packed = lambda *args, **kw: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    code += forked.command("encode", "texts.txt", "-o", "x.npy", "--model", checkpoint)
    result = forked.run(code, cwd=tmp_path)
    assert result.returncode == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == ["texts.txt"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("form", [["--json"], pytest.param([], marks=pytest.mark.slow)])
def test_reader_that_goes_away(checkpoint, form):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "albert_act_fast", "depth", "so", "--model", str(checkpoint)]
    with os.fdopen(writer, "w") as stdout:
        result = subprocess.run(
            [*command, *form],
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    assert (result.returncode, result.stderr) == (1, "")
