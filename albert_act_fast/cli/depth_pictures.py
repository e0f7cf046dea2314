"""The pictures that `depth` writes beside what it prints."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from albert_act_fast.cli.errors import FAILURE, CommandError, file_error

if TYPE_CHECKING:
    from albert_act_fast.cli.texts import SourceText
    from albert_act_fast.text import TextDepth

_FORMATS = (".png", ".svg", ".pdf")


class PlotKind(str, Enum):
    HEAT_MAP = "heat-map"
    CURVES = "curves"
    HISTOGRAMS = "histograms"


HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="OUT", help="Write it as one HTML page with everything in it."),
]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", metavar="OUT", help="Write a picture: .png, .svg or .pdf (matplotlib)."),
]
PlotKindOption = Annotated[
    PlotKind,
    typer.Option(
        "--plot-kind",
        help="Of --plot: tokens coloured by depth; how some tokens of one text halt; how many "
        "iterations the tokens of each class take.",
    ),
]


class Pictures:
    """Takes in texts as they come, and writes when all have come; a file appears when it is whole.

    Raises:
        CommandError: when it is made, for a file that could not be written, so that nothing is
            computed in vain; later, where writing fails all the same.
    """

    def __init__(self, html: Path | None, plot: Path | None, kind: PlotKind):
        self.kind = kind
        self._html, self._plot = html, plot
        for option, path in (("--html", html), ("--plot", plot)):
            if path is not None:
                check_place(option, path)
        if plot is not None:
            check_picture("--plot", plot)
        elif kind is not PlotKind.HEAT_MAP:
            raise CommandError(f"--plot-kind: got {kind.value!r} without --plot")
        self._kept: list[TextDepth] = []
        self._counted = None
        self._closing = contextlib.ExitStack()

    @property
    def needs_probabilities(self) -> bool:
        return self._plot is not None and self.kind is PlotKind.CURVES

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *error) -> None:
        self._closing.close()

    def watch(
        self, results: Iterator[tuple[SourceText, TextDepth]]
    ) -> Iterator[tuple[SourceText, TextDepth]]:
        """The same results; whoever takes the last one finds the pictures written."""
        if self._plot is None and self._html is None:
            yield from results
            return
        if self._html is None:
            for source, depth in results:
                self._take(depth)
                yield source, depth
        else:
            yield from self._with_page(results)
        if self._plot is not None:
            self._draw()

    def _with_page(self, results):
        from albert_act_fast.depth import page

        # The page asks for a text when the one before it is written; what it was given then goes
        # on to whoever prints.
        given = []

        def texts():
            for source, depth in results:
                self._take(depth)
                given.append((source, depth))
                yield depth

        part = self._html.with_name(f".{self._html.name}.part")
        self._closing.callback(part.unlink, missing_ok=True)
        pieces = page(texts())
        with self._writing("--html", self._html), open(part, "w", encoding="utf-8") as file:
            while True:
                piece = next(pieces, None)
                if piece is None:
                    break
                file.write(piece)
                while given:
                    yield given.pop(0)
        with self._writing("--html", self._html):
            os.replace(part, self._html)

    def _take(self, depth: TextDepth) -> None:
        if self._plot is None:
            return
        if self.kind is PlotKind.HISTOGRAMS:
            from albert_act_fast.depth import DepthHistograms

            self._counted = self._counted or DepthHistograms()
            self._counted.add(depth)
            return
        from albert_act_fast.depth.plots import MOST_ROWS

        self._kept.append(depth)
        if self.kind is PlotKind.CURVES and len(self._kept) > 1:
            raise CommandError(
                "--plot-kind: got 'curves' and several texts, expected one text for curves"
            )
        if len(self._kept) > MOST_ROWS:
            raise CommandError(
                f"--plot: got more than {MOST_ROWS} texts, expected fewer in a heat map (--html "
                "takes any number, and so does --plot-kind histograms)"
            )

    def _draw(self) -> None:
        from albert_act_fast import depth

        try:
            if self.kind is PlotKind.HISTOGRAMS:
                figure = depth.histograms(self._counted)
            elif self.kind is PlotKind.CURVES:
                figure = depth.halting_curves(self._kept[0])
            else:
                figure = depth.heat_map(self._kept)
        except ValueError as error:
            raise CommandError(f"--plot: {error}") from None
        with self._writing("--plot", self._plot):
            depth.save_picture(figure, self._plot)

    @contextlib.contextmanager
    def _writing(self, option: str, path: Path):
        try:
            yield
        except OSError as error:
            raise file_error(option, path, error, "written", FAILURE) from None


def check_picture(option: str, path: Path) -> None:
    """Raises CommandError where no picture of that name could be written."""
    check_place(option, path)
    if path.suffix.lower() not in _FORMATS:
        raise CommandError(
            f"{option}: got {str(path)!r}, expected a name that ends in .png, .svg or .pdf"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError(
            f"{option}: needs matplotlib, which is not installed: "
            "pip install 'albert_act_fast[plots]'"
        )


def check_place(option: str, path: Path) -> None:
    """Raises CommandError where no file of that name could be written."""
    if path.is_dir():
        raise CommandError(f"{option}: got {str(path)!r}, a folder; expected the name of a file")
    if not path.parent.is_dir():
        raise CommandError(f"{option}: got {str(path)!r}, but there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CommandError(f"{option}: got {str(path)!r}, which cannot be written")
