"""What is built and installed, and what importing it touches.

Builds and installs happen on a copy of the sources, so that the tree stays clean and parallel runs
do not share a build folder. The installs are looked at by an interpreter started with -S: it runs
no .pth file, so the editable install of the environment that runs the tests stays out of the way.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

# One worker: the fixtures build and install, which is not to be done once for each worker.
pytestmark = pytest.mark.xdist_group("packaging")

ROOT = Path(__file__).parents[2]
PARITY = Path(__file__).parent / "check_parity.py"
SOURCES = ["albert_act_fast", "kernels", "csrc", "third_party", "setup.py", "pyproject.toml"]
SOURCES += ["README.md", "LICENSE", "NOTICE", "MANIFEST.in"]
SPIECE_SHA256 = "fefb02b667a6c5c2fe27602d28e5fb3428f66ab89c7d6f388e7c8d44a02d0336"

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++").split()[0]) is None,
    reason="no C++ compiler on the PATH",
)


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of a command; its whole output in the error if it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments: str | Path, cwd: Path, **variables: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    run(*command, cwd=cwd, env=os.environ | variables)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with one module in kernels/ to import."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
    (copy / "kernels" / "probe.py").write_text("VALUE = 17\n")
    return copy


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    variables = {"ALBERT_ACT_FAST_CUDA_ARCHITECTURES": "90"} if shutil.which("nvcc") else {}
    # pip's isolated builds have no torch; this one has none either, without a download.
    (folder / "torch.py").write_text("raise ImportError('building must need no torch')\n")
    variables["PYTHONPATH"] = str(folder)
    variables["OPTIMISING"] = os.environ.get("CXX", "c++")
    variables["CXX"] = str(Path(__file__).parent / "unoptimised.sh")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder, **variables)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session", params=["wheel", "editable"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder the package is installed into, either way."""
    target = tmp_path_factory.mktemp(request.param)
    if request.param == "wheel":
        what = [request.getfixturevalue("wheel")]
    else:
        what = ["--no-build-isolation", "-e", request.getfixturevalue("source")]
    # The wheel has been compiled already; what an editable install adds is where things are found.
    pip("install", "--no-deps", "--target", target, *what, cwd=target, ALBERT_ACT_FAST_SKIP_CPP="1")
    return target


def run_installed(
    site: Path,
    code: str,
    cwd: Path,
    path: tuple[Path, ...] = (),
    env: dict[str, str] | None = None,
) -> str:
    """Run code where the package is installed in `site` and its dependencies are to be had."""
    prelude = (
        "import site, sys\n"
        f"sys.path[1:1] = {[str(entry) for entry in path]!r}\n"
        f"site.addsitedir({str(site)!r})\n"
        f"sys.path += {dependency_paths()!r}\n"
    )
    return run(sys.executable, "-S", "-c", prelude + code, cwd=cwd, env=env)


def dependency_paths() -> list[str]:
    return list(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_has_one_top_level_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"albert_act_fast"}


def test_wheel_holds_every_module(wheel: Path, source: Path) -> None:
    modules = {
        path.relative_to(source).as_posix() for path in (source / "albert_act_fast").rglob("*.py")
    }
    modules |= {f"albert_act_fast/kernels/{path.name}" for path in source.glob("kernels/*.py")}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".py")}
    assert packed == modules


def test_wheel_holds_the_type_marker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "albert_act_fast/py.typed" in archive.namelist()


def test_wheel_holds_everything_once(wheel: Path) -> None:
    """The tokenizer's model, 0.8 MB, too: the stock tokenizer is that of a shipped model."""
    names: dict[str, list[str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.file_size:
                digest = hashlib.sha256(archive.read(entry)).hexdigest()
                names.setdefault(digest, []).append(entry.filename)
    assert names[SPIECE_SHA256] == ["albert_act_fast/data/models/sst2/spiece.model"]
    assert [same for same in names.values() if len(same) > 1] == []


@needs_compiler
def test_one_wheel_serves_all_pythons(wheel: Path) -> None:
    """What is in it runs there: test_abi3.py."""
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        native = [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]
    assert native == ["albert_act_fast/_cpp_ops.abi3.so"]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed as it is."""
    site = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", site, wheel, cwd=site)
    return site


@needs_compiler
def test_the_installed_wheel_needs_no_compiler(installed: Path, tmp_path: Path) -> None:
    """The C++ engine against the plain loop, where nothing is on the PATH."""
    code = f"import runpy; runpy.run_path({str(PARITY)!r}, run_name='__main__')\n"
    said = run_installed(installed, code, tmp_path, env={"PATH": str(tmp_path)})
    assert said.startswith(f"cpp agrees with reference in {installed}")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on the PATH")
def test_wheel_holds_the_cuda_operators_where_there_is_nvcc(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "from albert_act_fast import native\n"
        "from albert_act_fast.ops.contracts import OPERATORS, registered\n"
        "print(native.build_info()['cuda'])\n"
        "print(*(registered(name, 'cuda', 'cuda') for name in OPERATORS))\n"
    )
    cuda, there = run_installed(installed, code, tmp_path).splitlines()
    assert cuda.endswith(" for sm_90 and PTX for newer ones")  # what `info` tells
    assert set(there.split()) == {"True"}


def install_from(source: Path, tmp_path: Path, **variables: str) -> tuple[int, str]:
    """pip's exit status, and what it printed of its own accord (no -v)."""
    copy = tmp_path / "source"
    shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("*.so", "build"))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--target", tmp_path / "site", copy],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_pip_shows_the_missing_tool(source: Path, tmp_path: Path) -> None:
    status, said = install_from(source, tmp_path, CXX="no-such-compiler")
    assert status != 0
    assert "[1 lines of output]" in said
    assert "albert_act_fast: no C++ compiler: no-such-compiler is not on the PATH" in said


def test_without_the_cpp_operators_where_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    variables = {"CXX": "no-such-compiler", "ALBERT_ACT_FAST_SKIP_CPP": "1"}
    status, said = install_from(source, tmp_path, **variables)
    assert status == 0, said
    assert not list((tmp_path / "site").rglob("*.so"))
    code = (
        "from albert_act_fast.implementations import availability, choose\n"
        "print(choose().name, '|', availability()['cpp'])\n"
    )
    name, _, why = run_installed(tmp_path / "site", code, tmp_path).partition("|")
    assert name.strip() == "torch"
    assert "the C++ operators were not built (ALBERT_ACT_FAST_SKIP_CPP was set" in why
    assert "to have them, with a C++ compiler: pip install " in why


def test_the_sdist_holds_what_git_does(tmp_path: Path) -> None:
    """Tests, documents and the changelog too; what is not needed there is named here."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, so nothing tells which files belong to the project")
    listed = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    tracked = {name for name in listed if name and (ROOT / name).is_file()}
    for name in tracked:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    code = "from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", f"import sys; {code}", tmp_path]
    run(*command, cwd=tmp_path / "tree", env=os.environ | {"ALBERT_ACT_FAST_SKIP_CPP": "1"})
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    missing = tracked - packed
    assert {name for name in missing if not name.startswith((".git", ".pre-commit"))} == set()


def test_wheel_metadata(wheel: Path) -> None:
    fields = metadata(wheel)
    assert fields["Name"] == "albert_act_fast"
    assert fields["License-Expression"] == "Apache-2.0"
    licences = {"LICENSE", "NOTICE", "third_party/torch/LICENSE"}
    assert set(fields.get_all("License-File")) == licences
    assert fields["Requires-Python"] == ">=3.10"
    needed = {line for line in fields.get_all("Requires-Dist") if "extra ==" not in line}
    assert {"torch>=2.11", "transformers<6,>=5.17"} <= needed
    # transformers reads spiece.model with these two, but requires neither.
    assert {"protobuf", "sentencepiece"} <= needed
    classifiers = fields.get_all("Classifier")
    assert {"Typing :: Typed", "Operating System :: POSIX :: Linux"} <= set(classifiers)
    assert any(line.startswith("Paper, https://") for line in fields.get_all("Project-URL"))
    # What only some users need stays out of everybody's install.
    assert not any(line.startswith(("triton", "matplotlib", "pytest")) for line in needed)


def test_wheel_has_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
        text = archive.read(name).decode()
    assert "albert-act-fast = albert_act_fast.cli.start:main" in text


def test_version_is_written_once(wheel: Path) -> None:
    import albert_act_fast

    assert albert_act_fast.__version__ == metadata(wheel)["Version"]
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {albert_act_fast.__version__}" in citation


def test_kernels_has_no_init() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_kernels_is_a_subpackage_and_not_top_level(
    site: Path, source: Path, tmp_path: Path
) -> None:
    code = (
        "import importlib.util\n"
        "import albert_act_fast.kernels.probe as probe\n"
        "spec = importlib.util.find_spec('kernels')\n"
        "print(probe.VALUE)\n"
        "print(*(spec.submodule_search_locations if spec else ()), sep='\\n')\n"
    )
    value, *places = run_installed(site, code, cwd=tmp_path).splitlines()
    assert value == "17"
    ours = (str(site), str(source), str(ROOT))
    assert not [place for place in places if place.startswith(ours)]


def test_another_kernels_package_wins_in_the_root_of_the_tree(
    site: Path, source: Path, tmp_path: Path
) -> None:
    """-c puts the working folder first on sys.path, as a shell or a notebook opened there does."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("OWNER = 'someone else'\n")
    code = "import kernels; print(kernels.OWNER)"
    assert run_installed(site, code, cwd=source, path=(tmp_path,)).strip() == "someone else"


def test_kernels_is_not_top_level_under_pytest() -> None:
    spec = importlib.util.find_spec("kernels")
    places = list(spec.submodule_search_locations or []) if spec else []
    assert str(ROOT / "kernels") not in places


def test_transformers_does_not_take_our_folder_for_its_package() -> None:
    if importlib.util.find_spec("kernels"):
        pytest.skip("Hugging Face's kernels package is installed here")
    code = "from transformers.utils import is_kernels_available; print(is_kernels_available())"
    assert run(sys.executable, "-c", code, cwd=ROOT).strip().splitlines()[-1] == "False"


def test_the_command_is_there(site: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['albert-act-fast', '--help']\n"
        "from albert_act_fast.cli.start import main\n"
        "main()\n"
    )
    assert "depth" in run_installed(site, code, cwd=tmp_path)
