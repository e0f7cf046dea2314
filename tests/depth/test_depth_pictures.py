"""Pictures of depth: pages, figures, a terminal; and what reaches a reader who sees no colours."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from albert_act_fast import TextEncoder, depth
from albert_act_fast.depth import colours, style

TEXTS = ["Call me Ishmael.", "The price is $5 and <b>$6</b> & more, in 1851."]


@pytest.fixture(scope="module")
def found() -> depth.TokenDepths:
    return TextEncoder.from_pretrained("sentence").depth(TEXTS, probabilities=True)


class Elements(HTMLParser):
    """Every element with its attributes and text; an element that is not closed fails."""

    EMPTY = ("meta", "rect", "polyline")

    def __init__(self, document: str):
        super().__init__()
        self.open, self.all = [], []
        self.feed(document)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        element = {
            "tag": tag,
            **dict(attributes),
            "text": "",
            "inside": [e["tag"] for e in self.open],
        }
        self.all.append(element)
        if tag not in self.EMPTY:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def of(self, tag: str, **attributes) -> list[dict]:
        return [
            e
            for e in self.all
            if e["tag"] == tag and all(v in (e.get(k) or "") for k, v in attributes.items())
        ]


def test_every_colour_can_be_read():
    for one in colours.VIRIDIS:
        assert colours.contrast(colours.ink(one), one) >= 4.5
    assert colours.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert [colours.level(n, 10) for n in (0, 1, 10, 12)] == [0, 1, 10, 10]
    sheet = style.sheet()
    light, dark = sheet.split("@media (prefers-color-scheme: dark)")
    for part in (light, dark):
        names = dict(re.findall(r"--(\w+): (#\w{3,6});", part))
        wide = {
            k: "#" + "".join(c * 2 for c in v[1:]) if len(v) == 4 else v for k, v in names.items()
        }
        for name in ("ink", "muted"):
            assert colours.contrast(wide[name], wide["page"]) >= 4.5
        for name in ("line", "focus"):
            assert colours.contrast(wide[name], wide["page"]) >= 3


def test_page(found):
    page = Elements("".join(depth.page(found, title="A <title>")))
    assert page.of("title")[0]["text"] == "A <title>"
    assert page.of("html")[0]["lang"] == "en"
    assert page.of("meta", name="viewport")
    # Nothing comes from anywhere else.
    assert not [e for e in page.all if "src" in e or "href" in e]
    lists = page.of("ol", **{"class": "tokens"})
    assert [e["aria-label"] for e in lists] == ["Tokens of text 1", "Tokens of text 2"]
    buttons = page.of("button")
    tokens = [t for d in found for t in depth.tokens_of(d)]
    for button, token in zip(buttons, tokens, strict=True):
        plural = "" if token.n_updates == 1 else "s"
        assert button["text"] == f"{token.text}{token.n_updates} iteration{plural}"
        assert button["data-info"].startswith(f"{token.text}: {token.n_updates} iteration")
        assert f"d{colours.level(token.n_updates, 12)}" in button["class"].split()
    # The markup of a text is text.
    assert not page.of("b")
    headers = [e["text"] for e in page.of("th", scope="row")]
    assert headers[: len(tokens)] == [t.text for t in tokens]
    assert len(page.of("polyline")) == len(tokens)
    assert all(e["aria-label"] and e["role"] == "img" for e in page.of("svg"))
    assert all(e["tabindex"] == "0" for e in page.of("div", **{"class": "scroll"}))
    assert {"[CLS]", "[SEP]", "word", "punctuation", "number"} <= set(headers[len(tokens) :])


def test_page_is_written_when_it_is_complete(found, tmp_path):
    def broken():
        yield found[0]
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        depth.save_page(broken(), tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="depths: got none"):
        depth.save_page([], tmp_path / "page.html")
    depth.save_page(found, tmp_path / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_notebooks_show_one_text_or_many(found):
    one, many = Elements(found[0]._repr_html_()), Elements(found._repr_html_())
    assert len(one.of("ol", **{"class": "tokens"})) == 1
    assert len(many.of("ol", **{"class": "tokens"})) == 2
    for document in (one, many):
        assert not document.of("script")
        assert not document.of("button")
        assert all(rule.startswith(".aaf-depth") for rule in _rules(document))
        assert document.of("span", title="Call: ")


def _rules(document: Elements) -> list[str]:
    sheet = document.of("style")[0]["text"]
    return [line for line in sheet.splitlines() if line and not line.startswith(("@", " ", "}"))]


def test_a_text_that_failed_says_why_in_its_place():
    encoder = TextEncoder.from_pretrained("sentence")
    found = encoder.depth(["so", "", "it is"], errors="collect")
    page = Elements(found._repr_html_())
    (failed,) = page.of("p", **{"class": "failed"})
    assert failed["text"].startswith("Text 2: got ''")
    assert [e["aria-label"] for e in page.of("section")] == ["Text 1", "Text 3"]
    figure = depth.heat_map(found)
    assert "[CLS]" in _texts(figure)


def _texts(figure) -> list[str]:
    return [t.get_text() for axes in figure.axes for t in axes.texts]


def test_heat_map_has_each_token_and_its_number(found):
    texts = _texts(depth.heat_map(found))
    tokens = [t for d in found for t in depth.tokens_of(d)]
    assert texts == [x for t in tokens for x in (t.text, str(t.n_updates))]
    wrapped = depth.heat_map(found[1], columns=30)
    assert wrapped.axes[0].get_ylim()[0] > 2
    with pytest.raises(ValueError, match="more than 400 rows"):
        depth.heat_map([found[1]] * 401)


def test_halting_curves(found):
    figure = depth.halting_curves(found[0], tokens=[1, 3])
    left, right = figure.axes
    tokens = depth.tokens_of(found[0])
    for lines, name in ((left.lines, "probabilities"), (right.lines, "accumulated")):
        drawn = [list(line.get_ydata()) for line in lines][:2]
        assert drawn == [getattr(tokens[i], name) for i in (1, 3)]
    assert right.lines[2].get_ydata()[0] == pytest.approx(0.99)
    assert len(depth.halting_curves(found[1]).axes[0].lines) == 6
    for places in ([], [99], [-1], ["a"], list(range(11))):
        with pytest.raises(ValueError, match="tokens: got"):
            depth.halting_curves(found[0], tokens=places)
    plain = TextEncoder.from_pretrained("sentence").depth("so")
    with pytest.raises(ValueError, match="depth: has no probabilities"):
        depth.halting_curves(plain)


def test_histograms_count_every_token(found):
    counted = depth.DepthHistograms(found)
    tokens = [t for d in found for t in depth.tokens_of(d)]
    assert sum(sum(counts) for _, counts in counted.classes()) == len(tokens)
    for name, counts in counted.classes():
        depths = [t.n_updates for t in tokens if t.token_class == name]
        assert counts == [depths.count(i) for i in range(13)]
    figure = depth.histograms(found)
    assert len(figure.axes) == len(counted.classes())
    for nothing in ([], depth.DepthHistograms()):
        with pytest.raises(ValueError, match="depths: got none"):
            depth.histograms(nothing)


def test_files(found, tmp_path):
    figure = depth.heat_map(found)
    for name in ("a.svg", "a.png"):
        depth.save_picture(figure, tmp_path / name)
    assert Image.open(tmp_path / "a.png").width > 300
    svg = (tmp_path / "a.svg").read_text()
    assert ">Call</text>" in svg
    assert ">$</text>" in svg
    depth.save_picture(depth.heat_map(found), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == svg
    with pytest.raises(ValueError, match=r"path: got '.*a.jpg', expected a name that ends in .png"):
        depth.save_picture(figure, tmp_path / "a.jpg")


def test_without_matplotlib_the_extra_is_named(found, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    for draw in (depth.heat_map, depth.histograms):
        with pytest.raises(ImportError, match=r"albert_act_fast\[plots\]"):
            draw(found)


def test_terminal(found):
    lines = depth.terminal_lines(found[1], columns=30)
    assert len(lines) > 1
    text = "\n".join("".join(part for part, _ in line) for line in lines)
    assert all(len(line) <= 30 for line in text.splitlines())
    assert "[CLS]₃" in text
    plain = depth.terminal_lines(found[0], subscripts=False)
    assert "".join(part for part, _ in plain[0]).startswith("[CLS]/3 Call/")
    styles = {s for line in lines for _, s in line if s}
    assert all(re.fullmatch(r"#\w{6} on #\w{6}", s) for s in styles)
    assert len(styles) > 2


def test_a_text_cannot_steer_the_terminal():
    encoder = TextEncoder.from_pretrained("sentence")
    found = encoder.depth("so \x1b[31mred")
    text = "".join(part for line in depth.terminal_lines(found) for part, _ in line)
    assert "\x1b" not in text
