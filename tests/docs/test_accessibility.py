"""Pages as a reader meets them, by axe-core in a headless Chromium: the site (`make docs` builds
it), the service's page, depth pages and reports. Light and dark, wide and narrow; contrast of at
least 4.5:1, and nothing that scrolls sideways."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.browser import chromium, new_context, violations

from albert_act_fast import TextEncoder, depth
from albert_act_fast.depth.report import depth_report
from albert_act_fast.depth.report_page import save_report

pytestmark = pytest.mark.slow

SITE = Path(__file__).parents[2] / "build" / "site"
# One of each kind: a table of contents, a drawing, code, wide tables, docstrings, pictures.
PAGES = (
    "index.html",
    "algorithm.html",
    "tutorials/drop_in.html",
    "depth.html",
    "glue.html",
    "performance/index.html",
    "api.html",
)
TEXTS = ["Call me Ishmael.", "The price is $5 and <b>$6</b> & more, in 1851.", "word " * 60]
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.from_pretrained("sentence")


def check(browser, url: str, prepare=lambda page: None) -> None:
    """All rules in the light, contrast in the dark, narrow too; complaints together."""
    found = []
    for scheme in ("light", "dark"):
        context = new_context(browser, viewport=WIDE, color_scheme=scheme)
        page = context.new_page()
        page.goto(url)
        prepare(page)
        rules = None if scheme == "light" else ["color-contrast"]
        found += [f"{scheme}: {one}" for one in violations(page, rules)]
        if scheme == "light":
            found += sideways(page)
            page.set_viewport_size(NARROW)
            found += sideways(page)
            found += [f"narrow: {one}" for one in violations(page, ["scrollable-region-focusable"])]
        context.close()
    assert not found, "\n".join(found)


def sideways(page) -> list[str]:
    width, there = page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    return [] if width <= there else [f"scrolls sideways: {width} of {there} pixels"]


@pytest.mark.parametrize("name", PAGES)
def test_site(browser, name):
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built (make docs)")
    check(browser, (SITE / name).as_uri())


def test_depth_page(browser, encoder, tmp_path):
    found = encoder.depth(TEXTS, probabilities=True)
    depth.save_page(found, tmp_path / "depth.html", title="Depths")

    def prepare(page):
        page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")

    check(browser, (tmp_path / "depth.html").as_uri(), prepare)


def test_report(browser, encoder, tmp_path):
    save_report(depth_report(encoder, TEXTS), tmp_path / "report.html", title="Depths")
    check(browser, (tmp_path / "report.html").as_uri())


def test_service_page(browser, encoder):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from support.serving import listening

    def prepare(page):
        page.get_by_text("Key", exact=True).click()
        page.get_by_role("button", name="Show depth").click()
        page.locator("#tokens li").first.wait_for()

    with listening(encoder) as url:
        check(browser, url, prepare)
