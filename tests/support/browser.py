"""A headless Chromium, and axe-core on what it shows."""

from __future__ import annotations

import functools
import importlib.resources
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# Chromium cannot make its sandbox where it runs as root.
_ARGUMENTS = ["--no-sandbox", "--no-proxy-server"]


@contextmanager
def chromium() -> Iterator:
    """Playwright's browser; skips where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        except api.Error as error:
            pytest.skip(f"no Chromium: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@functools.cache
def _axe() -> str:
    pytest.importorskip("axe_playwright_python", reason="needs the package axe-playwright-python")
    file = importlib.resources.files("axe_playwright_python") / "axe.min.js"
    return file.read_text("utf-8")


def violations(page, rules: list[str] | None = None) -> list[str]:
    """What axe-core finds wrong with a page: each rule with the places that break it.

    Args:
        rules: only these; default, all of axe's, its best practices included.
    """
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(_axe())
    options = {"resultTypes": ["violations"]}
    if rules is not None:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {one['help']}: "
        + "; ".join(f"{node['html'][:120]} ({node['failureSummary']})" for node in one["nodes"][:3])
        for one in found["violations"]
    ]
