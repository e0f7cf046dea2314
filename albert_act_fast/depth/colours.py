"""The colours of depths: viridis in eleven steps, with an ink that can be read on each."""

from __future__ import annotations

# viridis at 0, 0.1, ... 1 (matplotlib's; BIDS, public domain). Even in lightness, and told apart
# by colour-blind readers.
VIRIDIS = (
    "#440154",
    "#482475",
    "#414487",
    "#355f8d",
    "#2a788e",
    "#21918c",
    "#22a884",
    "#44bf70",
    "#7ad151",
    "#bddf26",
    "#fde725",
)
LEVELS = len(VIRIDIS)
INKS = ("#000000", "#ffffff")


def level(iterations: float, limit: int) -> int:
    """0 to 10, shallow to deep."""
    return round((LEVELS - 1) * min(max(iterations / limit, 0), 1))


def background(step: int, *, dark: bool = False) -> str:
    """The deepest stands out most: dark on a light page, bright on a dark one."""
    return VIRIDIS[step if dark else LEVELS - 1 - step]


def ink(colour: str) -> str:
    """Black or white, whichever has more contrast on that colour; at least 4.58:1 on any."""
    return max(INKS, key=lambda one: contrast(one, colour))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours #rrggbb, 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
