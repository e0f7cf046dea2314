"""transformers' own common tests of models, of the very release that is installed.

    python -m support.transformers_suite     # fetches them; `make transformers-tests` does

They are part of its source distribution alone. What they import and it leaves out is stood in for
here: tests of export and of generation, which have no rules of their own for an encoder.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "transformers_common_tests"
FILES = ("test_modeling_common.py", "test_configuration_common.py")
# Fields of every configuration, none at its default.
CONFIG_FIELDS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["AModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}


def folder() -> Path:
    """Where the tests of the installed release lie once they have been fetched."""
    return ROOT / "build" / f"transformers-{importlib.metadata.version('transformers')}"


def why_not() -> str | None:
    """None where they are there, else what is missing."""
    missing = [name for name in FILES if not (folder() / name).is_file()]
    return f"not fetched: {', '.join(missing)} (make transformers-tests)" if missing else None


def fetch() -> None:
    """Unpacks the tests of the installed release into `folder()`, by pip and its cache.

    Raises:
        RuntimeError: the source distribution cannot be had.
    """
    release = f"transformers=={importlib.metadata.version('transformers')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # The environment's own setuptools reads its metadata; nothing is built.
    command += ["--no-deps", "--no-build-isolation", "--no-binary", "transformers"]
    with tempfile.TemporaryDirectory() as to:
        done = subprocess.run([*command, "--dest", to, release], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{release}: no source distribution: {done.stderr.strip()[-500:]}")
        (archive,) = Path(to).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(member.name)
                if member.isfile() and path.parts[1:] in [("tests", name) for name in FILES]:
                    folder().mkdir(parents=True, exist_ok=True)
                    (folder() / path.name).write_bytes(tar.extractfile(member).read())
    (folder() / "__init__.py").touch()
    if (reason := why_not()) is not None:
        raise RuntimeError(f"{release}: the source distribution lacks tests: {reason}")


def common_tests() -> types.ModuleType:
    """The module `test_modeling_common`, in a package of its own."""
    return _load("test_modeling_common")


def configuration_tests() -> types.ModuleType:
    """The module `test_configuration_common`."""
    return _load("test_configuration_common")


def _load(name: str) -> types.ModuleType:
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(folder())]
        sys.modules[PACKAGE] = package
        _stand_in("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
        _stand_in(
            "generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {})
        )
        _stand_in("utils.test_configuration_utils", config_common_kwargs=CONFIG_FIELDS)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _stand_in(name: str, **contents) -> None:
    parent = types.ModuleType(f"{PACKAGE}.{name.split('.')[0]}")
    parent.__path__ = []
    module = types.ModuleType(f"{PACKAGE}.{name}")
    vars(module).update(contents)
    sys.modules |= {parent.__name__: parent, module.__name__: module}


if __name__ == "__main__":
    if why_not() is not None:
        try:
            fetch()
        except RuntimeError as error:
            sys.exit(f"transformers' own tests are left out: {error}")
    print(f"transformers' own tests: {folder()}")
