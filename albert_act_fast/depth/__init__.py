"""Depth as data and as pictures: how many iterations each token of a text takes, and why so many.

`TextEncoder.depth` measures; what it returns shows itself in notebooks. What is done with it:

- `tokens_of`: each token's text, place, iterations and, where asked for, probabilities, as data;
- `page`, `save_page`, `fragment`: HTML, with everything it needs in it;
- `heat_map`, `halting_curves`, `histograms`, `save_picture`: figures (matplotlib, extra `[plots]`);
- `terminal_lines`: coloured text;
- `record`: the halting probabilities of a bare model's batch, without an encoder.
"""

from albert_act_fast.depth.data import TokenDepth, TokenDepths, tokens_of
from albert_act_fast.depth.html import fragment, page, save_page
from albert_act_fast.depth.plots import (
    DepthHistograms,
    halting_curves,
    heat_map,
    histograms,
    save_picture,
)
from albert_act_fast.depth.recording import HaltingRecord, record
from albert_act_fast.depth.terminal import terminal_lines

__all__ = [
    "DepthHistograms",
    "HaltingRecord",
    "TokenDepth",
    "TokenDepths",
    "fragment",
    "halting_curves",
    "heat_map",
    "histograms",
    "page",
    "record",
    "save_page",
    "save_picture",
    "terminal_lines",
    "tokens_of",
]
