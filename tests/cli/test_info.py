"""`info`: the report as text and as JSON."""

from __future__ import annotations

import json
import platform

import pytest
import torch
import transformers

from albert_act_fast import __version__, implementations, native
from albert_act_fast.engine import cpu


def test_json_report(command):
    result = command("info", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    versions = report["versions"]
    assert versions["albert_act_fast"] == __version__
    assert versions["torch"] == torch.__version__
    assert versions["transformers"] == transformers.__version__
    assert versions["python"] == platform.python_version()
    assert "triton" in versions
    assert report["cpu"]["threads"] == torch.get_num_threads()
    assert report["cpu"]["capability"] == torch.backends.cpu.get_cpu_capability()
    assert report["cpu"]["kernels"] == native.instruction_set()
    assert len(report["cuda"]["devices"]) == torch.cuda.device_count()
    assert report["implementations"]["cpu"] == implementations.availability("cpu")
    assert report["auto"]["cpu"] == implementations.choose(device="cpu").name
    assert set(report["built"]) == {"native libraries", "CUDA operators", "Triton kernels"}
    cuda = (native.build_info() or {"cuda": ""})["cuda"]
    assert report["built"]["CUDA operators"] == ([cuda] if cuda else [])


@pytest.mark.parametrize(
    ("threads", "switch", "gives_way"),
    [(2, None, True), (4, "1", True), (1, None, False), (5, None, False), (2, "0", False)],
)
def test_it_says_when_one_thread_computes_alone(command, monkeypatch, threads, switch, gives_way):
    if native.library is None:
        pytest.skip(str(native.why_no_cpp))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.delenv("ALBERT_ACT_FAST_GIVE_WAY", raising=False)
    if switch:
        monkeypatch.setenv("ALBERT_ACT_FAST_GIVE_WAY", switch)
    assert json.loads(command("info", "--json").stdout)["cpu"]["gives_way"] is gives_way
    text = command("info").stdout
    assert (f"threads {threads} (1 while others keep the machine busy)" in text) is gives_way


def test_reasons_are_shown(command, monkeypatch):
    reasons = {"reference": None, "torch": None, "cpp": "it was not built"}
    monkeypatch.setattr(implementations, "availability", lambda device="cpu": dict(reasons))
    lines = [line.split() for line in command("info").stdout.splitlines()]
    assert ["cpp", "no:", "it", "was", "not", "built"] in lines
    assert ["torch", "available"] in lines


def test_it_says_how_to_get_what_was_not_built(command, monkeypatch):
    monkeypatch.setattr(native, "why_no_cpp", "no compiler; pip install that")
    monkeypatch.setattr(native, "library", None)
    monkeypatch.setattr("albert_act_fast.cli.info.Path.glob", lambda self, pattern: iter(()))
    text = command("info").stdout
    assert text.count("  nothing: no compiler; pip install that\n") == 2
    report = json.loads(command("info", "--json").stdout)
    assert set(report["not_built"]) == {"native libraries", "CUDA operators"}


def test_the_triton_engine_says_why_it_captures_no_graphs(command, monkeypatch):
    if not torch.cuda.is_available():
        assert "CUDA graphs  no: there are no CUDA graphs on cpu" in command("info").stdout
    monkeypatch.setenv("ALBERT_ACT_FAST_CUDA_GRAPHS", "0")
    assert "no: ALBERT_ACT_FAST_CUDA_GRAPHS=0" in command("info").stdout
    assert json.loads(command("info", "--json").stdout)["cuda_graphs"] is not None


def test_it_says_where_a_batch_changes_no_bit(command, monkeypatch):
    report = json.loads(command("info", "--json").stdout)["invariant"]
    assert set(report) == {"float32", "bfloat16", "int8"}
    if native.library is None:
        assert set(report.values()) == {native.why_no_cpp}
        return
    assert report["int8"] is None
    # As on a processor where the kernels compute few rows only, and where oneDNN is missing.
    built = native.build_info() | {"own_products": "int8"}
    monkeypatch.setattr(native, "build_info", lambda: built)
    for has_onednn in (True, False):
        monkeypatch.setattr(cpu, "_has_onednn", lambda dtype, has=has_onednn: has)
        text = command("info").stdout.split("batch-invariant\n")[1]
        lines = [line.split(maxsplit=1) for line in text.splitlines()[:3]]
        why = "no: products of many rows are oneDNN's on this processor" if has_onednn else "yes"
        assert lines == [["float32", why], ["bfloat16", why], ["int8", "yes"]]


def test_package_that_is_not_installed(command, monkeypatch):
    monkeypatch.setattr("albert_act_fast.cli.info._PACKAGES", ("torch", "no-such-package"))
    assert json.loads(command("info", "--json").stdout)["versions"]["no-such-package"] is None
    assert "not installed" in command("info").stdout


def test_version(command):
    assert command("--version").stdout == f"albert-act-fast {__version__}\n"


def test_help_lists_the_commands_and_their_options(command):
    listed = command("--help").stdout
    assert all(name in listed for name in ("depth", "encode", "info"))
    assert "--pooling" in command("encode", "--help").stdout
