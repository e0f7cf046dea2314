"""`search`: the order of what is found, its form, and what is refused."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from albert_act_fast.cli.errors import CommandError
from albert_act_fast.cli.search import search

LINES = """\
The doctor gave the child some medicine.

Heavy rain flooded the streets of the town.
She bought a new car last week.
The orchestra played a symphony.
"""


@pytest.fixture
def run(tmp_path):
    app = typer.Typer()
    app.command()(search)
    file = tmp_path / "lines.txt"
    file.write_text(LINES)

    def call(*arguments, file=file) -> str:
        query, *options = map(str, arguments)
        result = CliRunner().invoke(app, [query, str(file), *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def test_nearest_first_with_cosine_and_line(run):
    lines = run("music at a concert", "--top", 2).splitlines()
    assert len(lines) == 2
    assert lines[0].split("  ", 1)[1] == "5: The orchestra played a symphony."
    assert float(lines[0].split()[0]) >= float(lines[1].split()[0])


def test_json(run):
    found = json.loads(run("too much water after a storm", "--json"))
    assert found["lines"] == 4  # the empty one is skipped
    assert next(one["line"] for one in found["found"]) == 3
    assert len(found["found"]) == 4
    cosines = [one["cosine"] for one in found["found"]]
    assert cosines == sorted(cosines, reverse=True)


def test_a_line_is_nearest_to_itself(run):
    found = json.loads(run("She bought a new car last week.", "--json", "--top", 1))["found"]
    assert found[0]["line"] == 4
    assert found[0]["cosine"] == pytest.approx(1, abs=1e-3)


def test_in_int8_the_same_is_found(run):
    found = json.loads(run("music at a concert", "--json", "--quantization", "int8"))["found"]
    assert found[0]["line"] == 5


def test_refuses(run, tmp_path):
    with pytest.raises(CommandError, match="expected a text that is not empty"):
        run(" ")
    with pytest.raises(CommandError, match="FILE: got"):
        run("music", file=tmp_path / "none.txt")
    with pytest.raises(CommandError, match="--model: got 'none/such'"):
        run("music", "--model", "none/such")


def test_lines_that_say_nothing_are_counted(run, tmp_path):
    file = tmp_path / "some.txt"
    file.write_text("\nThe orchestra played.\n\U0001d54f\U0001d54f\n\n")
    found = json.loads(run("music", "--json", file=file))
    assert (found["lines"], found["found"][0]["line"]) == (1, 2)
    assert found["skipped"] >= 2
