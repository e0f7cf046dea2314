"""The Python and the commands of these pages run, each page as one session from top to bottom."""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from albert_act_fast import TextEncoder
from albert_act_fast.cli.app import app

DOCS = Path(__file__).parents[2] / "docs"
TUTORIALS = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("tutorials/*.md"))
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.M | re.S)
SERVICE = "http://127.0.0.1:8080"


class Session:
    """Python blocks share their names. Commands are those of this package, run in this process. In
    the place of `serve` its service runs in a thread, on a free port that later blocks find in the
    place of 8080; the command itself is tested in tests/serve."""

    def __init__(self, page: str, stack: ExitStack):
        self.page, self.stack = page, stack
        self.names: dict = {"__name__": page}
        self.url = SERVICE

    def python(self, block: str) -> None:
        exec(compile(block.replace(SERVICE, self.url), self.page, "exec"), self.names)

    def bash(self, block: str) -> None:
        for line in block.replace("\\\n", " ").splitlines():
            program, command, *arguments = shlex.split(line, comments=True)
            assert program == "albert-act-fast", f"{self.page}: no way to run {line!r}"
            if command == "serve":
                from support.serving import listening

                option, model = arguments
                assert option == "--model"
                encoder = TextEncoder.from_pretrained(model)
                self.url = self.stack.enter_context(listening(encoder))
                continue
            result = CliRunner().invoke(app, [command, *arguments])
            assert result.exit_code == 0, f"{self.page}: {line}: {result.output}"


@pytest.mark.parametrize("page", ["index.md", "depth.md", *TUTORIALS])
def test_a_page_runs(page, tmp_path, monkeypatch):
    if page == "tutorials/fine_tuning.md":
        pytest.importorskip("accelerate", reason="accelerate is not installed (dev.txt)")
    if page == "tutorials/service.md":
        pytest.importorskip("fastapi", reason="needs the extra serve")
        pytest.importorskip("openai", reason="openai is not installed (dev.txt)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    text = (DOCS / page).read_text("utf-8")
    blocks = BLOCK.findall(text)
    assert blocks
    assert text.count("```") == 2 * len(blocks), "a block that is neither python nor bash"
    with ExitStack() as stack:
        session = Session(page, stack)
        for language, block in blocks:
            getattr(session, language)(block)


def test_each_kind_of_tutorial_is_there():
    kinds = {"drop_in", "fine_tuning", "corpus", "service"}
    assert kinds <= {Path(page).stem for page in TUTORIALS}
    nav = (DOCS.parent / "mkdocs.yml").read_text("utf-8")
    assert all(page in nav for page in TUTORIALS)
