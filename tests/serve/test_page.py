"""The page in a headless Chromium."""

from __future__ import annotations

import pytest
from support.browser import chromium
from support.serving import listening

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Opens the page; what it complains of, and whom else it asks, fails the test."""
    contexts, complaints = [], []

    def open_(url: str, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((url, "data:")) else complaints.append(r.url),
        )
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_depths_are_shown(encoder, open_page, scheme):
    with listening(encoder) as url:
        page = open_page(url, color_scheme=scheme)
        page.get_by_label("Text").fill("so it was <b>quiet</b>")
        page.get_by_role("button", name="Show depth").click()
        page.locator("#tokens li").first.wait_for()
        expected = encoder.depth("so it was <b>quiet</b>")
        counts = page.locator("#tokens small").all_inner_texts()
        assert [int(count) for count in counts] == expected.iterations
        status = page.get_by_role("status").inner_text()
        assert f"{len(counts)} tokens" in status
        assert f"max {max(expected.iterations)} of 12" in status
        # Deeper is another colour, and the text is readable on each: WCAG's 4.5, with margin.
        styles = page.eval_on_selector_all(
            "#tokens li",
            """items => {
              const canvas = document.createElement("canvas").getContext("2d");
              const rgb = colour => {
                canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                return Array.from(canvas.getImageData(0, 0, 1, 1).data.slice(0, 3));
              };
              return items.map(item => {
                const style = getComputedStyle(item);
                return [rgb(style.backgroundColor), rgb(style.color)];
              });
            }""",
        )
        colours = {n: tuple(back) for n, (back, _) in zip(expected.iterations, styles, strict=True)}
        assert len(set(colours.values())) == len(colours) > 1
        assert min(_contrast(back, ink) for back, ink in styles) > 4.5


def test_errors_are_said(encoder, open_page):
    with listening(encoder) as url:
        page = open_page(url)
        page.get_by_label("Text").fill(" ")
        page.get_by_role("button", name="Show depth").click()
        page.locator("#status.wrong").wait_for()
        assert "finds no token" in page.get_by_role("status").inner_text()


def test_with_the_keyboard_and_a_key(encoder, open_page):
    with listening(encoder, api_key="opensesame") as url:
        page = open_page(url)
        page.get_by_text("Key", exact=True).click()
        page.get_by_label("API key").fill("opensesame")
        page.keyboard.press("Enter")
        page.locator("#tokens li").first.wait_for()


def test_every_control_has_a_name(encoder, open_page):
    with listening(encoder) as url:
        page = open_page(url)
        nameless = page.eval_on_selector_all(
            "textarea, input, button, a",
            "items => items.filter(i => !(i.labels?.length || i.textContent.trim())).length",
        )
        assert nameless == 0
        assert page.eval_on_selector("html", "html => html.lang") == "en"


def _contrast(one, two) -> float:
    def luminance(rgb):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (value / 255 for value in rgb)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)
