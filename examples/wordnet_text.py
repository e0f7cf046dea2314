"""Writes WordNet's definitions, example sentences and words as a text file, one a line.

    python examples/wordnet_text.py /usr/share/wordnet wordnet.txt

The folder is that of WordNet's database files (data.noun, data.verb, data.adj, data.adv), such as
Debian's package wordnet-base installs. WordNet's licence allows use, copies and changes.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_EXAMPLE = re.compile(r'"([^"]+)"')
PARTS = ("noun", "verb", "adj", "adv")


def read_entries(folder: Path):
    """Of each synset its words, its definition and its example sentences."""
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, gloss = line.split(" | ", 1)
            fields = fields.split()
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words]
            definition = _EXAMPLE.sub("", gloss).strip(" ;\n")
            yield words, definition, [e.strip() for e in _EXAMPLE.findall(gloss)]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of data.noun, data.verb, ...")
    parser.add_argument("output", type=Path, help="the text file to write")
    args = parser.parse_args(argv)
    lines: dict[str, None] = {}  # a set that keeps its order
    for number, (words, definition, examples) in enumerate(read_entries(args.folder)):
        # A word in four: enough to know what single words look like.
        short = [word for word in words if len(word) > 2][:1] if number % 4 == 0 else []
        for text in (definition, *examples, *short):
            if text:
                lines.setdefault(text)
    args.output.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"wrote {args.output}: {len(lines)} lines")


if __name__ == "__main__":
    main()
