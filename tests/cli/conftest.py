"""A small checkpoint and the command itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.models import random_model
from typer.testing import CliRunner, Result

from albert_act_fast.cli.app import app
from albert_act_fast.tokenizer import STOCK_TOKENIZER

VOCABULARY = 30000
POSITIONS = 40


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for the stock tokenizer, saved without one; at most 40 tokens, 12 iterations."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = random_model(
        3, halting_bias=-0.2, vocab_size=VOCABULARY, max_position_embeddings=POSITIONS
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def stock_tokenizer_file() -> Path:
    return STOCK_TOKENIZER / "spiece.model"


@pytest.fixture
def command() -> Callable[..., Result]:
    """Runs `albert-act-fast` in this process; an error of ours it does not report is raised."""

    def run(*args: object, stdin: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in args], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def error(command) -> Callable[..., str]:
    """Runs a command that has to fail with status 2 and one line on stderr; gives that line."""

    def run(*args: object, status: int = 2, **kwargs) -> str:
        result = command(*args, **kwargs)
        assert (result.exit_code, result.stdout) == (status, ""), result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("albert-act-fast: error: ")
        return lines[0].removeprefix("albert-act-fast: error: ")

    return run
