"""What surrounds a command: closed and full streams, signals at any moment, imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from support import forked

COMMAND = [sys.executable, "-m", "albert_act_fast"]


def run(*args, code: str | None = None, **kwargs) -> subprocess.CompletedProcess:
    command = COMMAND if code is None else [sys.executable, "-c", code]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*command, *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        env=env,
        **kwargs,
    )


def only_line(result: subprocess.CompletedProcess) -> str:
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["encode", "--help"], ["encod"]])
def test_help_version_and_typos_load_nothing_heavy(args):
    code = (
        "import sys\n"
        f"sys.argv = ['albert-act-fast', *{args!r}]\n"
        "from albert_act_fast.cli.start import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'rich', 'pyarrow'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    result = run(code=code)
    assert result.returncode == (2 if args == ["encod"] else 0), result.stderr
    assert "Traceback" not in result.stderr


def test_help_keeps_brackets():
    assert "[lines, hidden]" in " ".join(run("encode", "--help").stdout.split())


@pytest.mark.parametrize(
    "program",
    [
        "from albert_act_fast import AlbertActModel\nfrom transformers import AutoModel",
        "import albert_act_fast\nfrom transformers import AutoModel",
        "from transformers import AutoModel\nimport albert_act_fast",
    ],
)
def test_importing_the_package_registers_its_models(program, checkpoint):
    code = f"{program}\nprint(type(AutoModel.from_pretrained({str(checkpoint)!r})).__name__)"
    assert run(code=code).stdout == "AlbertActModel\n"


def test_every_name_of_the_package_is_there():
    code = (
        "import sys\n"
        "sys.argv = ['albert-act-fast']\n"  # as in the command, where nothing is loaded yet
        "import albert_act_fast as package\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(package.__all__) <= set(dir(package))\n"
        "for name in package.__all__:\n"
        "    assert getattr(package, name) is not None\n"
        "from transformers import AutoConfig\n"
        "AutoConfig.for_model('albert_act')\n"
        "try:\n"
        "    package.nothing\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    result = run(code=code)
    assert result.stdout == "module 'albert_act_fast' has no attribute 'nothing'\n", result.stderr


class TestClosedStreams:
    @pytest.mark.parametrize("args", [["depth", "so"], ["info"]])
    def test_output(self, args):
        result = forked.run(forked.command(*args), closed=1)
        assert result.returncode == 1
        assert "standard output is closed" in only_line(result)

    def test_output_that_is_not_needed(self, checkpoint, tmp_path):
        (tmp_path / "x.txt").write_text("so\n")
        code = forked.command("encode", "x.txt", "-o", "x.npy", "--model", checkpoint)
        result = forked.run(code, closed=1, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.txt"]

    @pytest.mark.parametrize("args", [["depth"], ["classify", "-"]])
    def test_input(self, args):
        result = forked.run(forked.command(*args), closed=0)
        assert result.returncode == 2
        assert "standard input is closed" in only_line(result)

    def test_errors(self, tmp_path):
        """Nobody sees the message, but the status says it."""
        result = forked.run(forked.command("depth", "--file", "none"), closed=2, cwd=tmp_path)
        assert result.returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize("args", [["depth", "so"], ["depth", "--json", "so"], ["--version"]])
def test_output_on_a_full_disk(args):
    with open("/dev/full", "w") as full:
        result = forked.run(forked.command(*args), stdout=full)
    assert result.returncode == 1
    assert only_line(result).endswith("standard output: cannot be written: No space left on device")


_SIGNAL_IN_AN_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
sys.argv = ["albert-act-fast", "encode", "x.txt", "-o", "x.npy"]
from albert_act_fast.cli.start import main
main()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_while_libraries_are_imported(tmp_path, name):
    number = getattr(signal, name)
    (tmp_path / "x.txt").write_text("so\n")
    result = run(code=_SIGNAL_IN_AN_IMPORT.format(number=int(number)), cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (128 + number, "", "")
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    """As under nohup."""
    (tmp_path / "x.txt").write_text("so\n")
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += _SIGNAL_IN_AN_IMPORT.format(number=int(signal.SIGHUP))
    assert run(code=code, cwd=tmp_path).returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "x.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space as on Linux")
@pytest.mark.parametrize("when", ["compute", "load", "import"])
def test_memory_that_cannot_be_had(tmp_path, checkpoint, when):
    (tmp_path / "x.txt").write_text("so\n")
    raises = {
        "compute": "from albert_act_fast.text import encoder\n"
        "def fail(*a, **k): torch.empty(1 << 60)\n"
        "import torch\nencoder.encode_packed = fail\n",
        "load": "from albert_act_fast.text import loading\nimport torch\n"
        "loading.load = lambda *a, **k: torch.empty(1 << 60)\n",
        "import": "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ImportError('libtorch_cpu.so: failed to map segment "
        "from shared object: Cannot allocate memory')\n"
        "sys.meta_path.insert(0, Finder())\n",
    }[when]
    code = f"import sys\n{raises}"
    code += forked.command("encode", "x.txt", "-o", "x.npy", "--model", checkpoint)
    result = run(code=code, cwd=tmp_path) if when == "import" else forked.run(code, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert "out of memory" in only_line(result)
    assert "--batch-size" in only_line(result)
    assert os.listdir(tmp_path) == ["x.txt"]


def test_settings_in_a_checkpoint_that_change_what_a_call_returns(command, checkpoint, tmp_path):
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = json.loads(command("depth", "--json", "so", "--model", tmp_path).stdout)
    expected = json.loads(command("depth", "--json", "so", "--model", checkpoint).stdout)
    assert found["texts"] == expected["texts"]


def test_a_hub_that_cannot_be_reached_is_not_waited_for(monkeypatch):
    import huggingface_hub.constants

    from albert_act_fast.cli import loading

    asked = []

    def refuse(address, timeout):
        asked.append((address, timeout))
        raise OSError("no route")

    monkeypatch.setattr("socket.create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    loading._check_name("some/model")
    assert asked == [(("hub.invalid", 443), 3.0)]
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_caches_of_prepared_products_are_bounded_unless_told(monkeypatch):
    code = (
        "import os, sys\n"
        "sys.argv = ['albert-act-fast', '--version']\n"
        "from albert_act_fast.cli.start import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(*(os.environ[n + '_CACHE_CAPACITY'] for n in ('LRU', 'ONEDNN_PRIMITIVE')))\n"
    )
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    assert run(code=code).stdout.splitlines()[-1] == "7 64"


def test_completion_is_offered(monkeypatch):
    """As bash asks; `--show-completion` would look at the shell that started the tests."""
    monkeypatch.setenv("COMP_WORDS", "albert-act-fast enc")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_ALBERT_ACT_FAST_COMPLETE", "complete_bash")
    result = run()
    assert result.stdout.split() == ["encode"], result.stderr
