"""Style sheet and script of the HTML pictures."""

from __future__ import annotations

from albert_act_fast.depth import colours

# Everything is scoped to .aaf-depth: the same sheet stands in notebooks, whose own style it must
# neither need nor change. Text and background are set together, so that contrast holds in whatever
# theme surrounds it.
_SHEET = """
.aaf-depth { color-scheme: light dark; --page: #fff; --ink: #1a1a1a; --muted: #595959;
  --line: #767676; --focus: #0b57d0; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
.aaf-depth h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
.aaf-depth h2 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.aaf-depth p { margin: .25rem 0; }
.aaf-depth .muted { color: var(--muted); font-weight: normal; }
.aaf-depth .tokens, .aaf-depth .legend { display: flex; flex-wrap: wrap; list-style: none;
  margin: .25rem 0; padding: 0; row-gap: .3rem; }
.aaf-depth .tokens li { margin: 0 .4rem 0 0; max-width: 100%; }
.aaf-depth .tokens li.goes-on { margin-right: 1px; }
.aaf-depth .legend li { padding: .1rem .5rem; }
.aaf-depth .token { display: inline-block; border: 0; border-radius: .2rem; padding: .1rem .25rem;
  font: inherit; text-align: center; white-space: pre-wrap; max-width: 100%; cursor: default; }
.aaf-depth .token .n { display: block; font-size: .75rem; line-height: 1.1; }
.aaf-depth .token:focus-visible, .aaf-depth .scroll:focus-visible,
.aaf-depth summary:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
.aaf-depth output { display: block; position: sticky; bottom: 0; padding: .5rem 0;
  min-height: 1.5em; background: var(--page); border-top: 1px solid var(--line); }
.aaf-depth .hidden { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
.aaf-depth .scroll { overflow-x: auto; overflow-wrap: normal; }
.aaf-depth table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.aaf-depth caption { text-align: left; color: var(--muted); }
.aaf-depth th, .aaf-depth td { border: 1px solid var(--line); padding: .1rem .5rem;
  text-align: right; background: var(--page); color: var(--ink); }
.aaf-depth th { text-align: left; }
.aaf-depth td svg { display: block; stroke: currentColor; fill: none; }
.aaf-depth .failed { border-left: 3px solid var(--line); padding-left: .5rem; }
@media (forced-colors: active) { .aaf-depth .token { border: 1px solid; } }
"""
_DARK = """--page: #14161a; --ink: #e8e8e8; --muted: #a6adb8; --line: #7d8590; --focus: #8ab4f8;"""

# One stop of the Tab key for each text; arrows, Home and End go from token to token.
SCRIPT = """
for (const list of document.querySelectorAll('.aaf-depth .tokens')) {
  const tokens = [...list.querySelectorAll('button')];
  const say = (t) => { document.querySelector('.aaf-depth output').textContent = t.dataset.info; };
  const move = (i) => {
    tokens.forEach((t) => { t.tabIndex = -1; });
    tokens[i].tabIndex = 0;
    tokens[i].focus();
  };
  tokens.forEach((token, i) => {
    token.tabIndex = i ? -1 : 0;
    token.addEventListener('focus', () => say(token));
    token.addEventListener('click', () => say(token));
    token.addEventListener('mouseenter', () => say(token));
    token.addEventListener('keydown', (event) => {
      const to = { ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1,
                   Home: 0, End: tokens.length - 1 }[event.key];
      if (to === undefined || !tokens[to]) return;
      event.preventDefault();
      move(to);
    });
  });
}
"""


def sheet() -> str:
    """The style sheet, with the scale of colours for light and dark."""
    light, dark = (_scale(dark=dark) for dark in (False, True))
    return (
        f"{_SHEET.strip()}\n{light}\n@media (prefers-color-scheme: dark) {{\n"
        f".aaf-depth {{ {_DARK} }}\n{dark}\n}}"
    )


def _scale(*, dark: bool) -> str:
    rules = []
    for step in range(colours.LEVELS):
        colour = colours.background(step, dark=dark)
        rules.append(
            f".aaf-depth .d{step} {{ background: {colour}; color: {colours.ink(colour)}; }}"
        )
    return "\n".join(rules)
