"""README.md as a package index gets it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RELATIVE = re.compile(r"\]\((?!https?:|#)")


def index_description(readme: str, repository: str | None) -> str:
    # setup.py runs a build when it is imported.
    tree = ast.parse((ROOT / "setup.py").read_text())
    (function,) = (node for node in tree.body if getattr(node, "name", "") == "index_description")
    names = {"re": re}
    exec(ast.unparse(function), names)
    return names["index_description"](readme, repository)


def test_pictures_and_links_lead_to_the_repository():
    text = "![A picture](docs/a.png)\n[docs](docs/) [site](https://example.org) [below](#limits)\n"
    assert index_description(text, "https://example.org/us/it") == (
        "![A picture](https://example.org/us/it/raw/main/docs/a.png)\n"
        "[docs](https://example.org/us/it/blob/main/docs/) "
        "[site](https://example.org) [below](#limits)\n"
    )


def test_without_an_address_the_text_stays():
    text = "![A picture](docs/a.png)\n[docs](docs/) [site](https://example.org)\n"
    assert index_description(text, None) == "\ndocs [site](https://example.org)\n"


def test_none_is_left_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert RELATIVE.search(readme)
    for repository in (None, "https://example.org/us/it"):
        assert not RELATIVE.search(index_description(readme, repository))
