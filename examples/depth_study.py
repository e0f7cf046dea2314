"""What depth goes with: word class, rarity and position of a text's tokens; and a picture.

    python examples/depth_study.py --model sentence --text TEXT_DIR
    python examples/depth_study.py --model sentence --sentences FILE --picture OUT.png

TEXT_DIR holds *.txt files, one paragraph a line; a sample of their sentences is run and a table
printed. FILE has one sentence a line; the picture shows every token's iterations.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
from distil_data import sentences_of
from distil_tools import embed
from scipy.stats import spearmanr
from training import random_for

from albert_act_fast import AlbertActModel, shipped_model
from albert_act_fast.shipped import shipped_models
from albert_act_fast.tokenizer import load_tokenizer

# Articles, pronouns, prepositions, conjunctions, auxiliaries, negation: a closed class, so a list.
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those i me my mine myself you your yours yourself he him his himself
    she her hers herself it its itself we us our ours ourselves they them their theirs themselves
    who whom whose which what where when why how there here and or but nor so yet if because as
    than though although while until unless since of in on at by for with about against between
    into through during before after above below to from up down out over under again further off
    upon among within without toward towards am is are was were be been being have has had having
    do does did doing will would shall should can could may might must ought not no t s d ll m re ve
    """.split()
)
CLASSES = ("[CLS]", "[SEP]", "punctuation", "number", "function word", "content word", "word part")


def word_class(token: str, cls: str, sep: str) -> str:
    """One of `CLASSES`; a WordPiece that goes on with a word is a word part."""
    if token in (cls, sep):
        return "[CLS]" if token == cls else "[SEP]"
    if token.startswith("##"):
        return "word part"
    if not re.search(r"\w", token):
        return "punctuation"
    if re.fullmatch(r"[\d.,]+", token):
        return "number"
    return "function word" if token in FUNCTION_WORDS else "content word"


def explained(depths: np.ndarray, groups: list[str]) -> float:
    """Share of the variance of depth that lies between groups (eta squared)."""
    total = ((depths - depths.mean()) ** 2).sum()
    groups = np.array(groups)
    between = sum(
        (groups == name).sum() * (depths[groups == name].mean() - depths.mean()) ** 2
        for name in set(groups.tolist())
    )
    return float(between / total) if total else 0.0


def study(model, tokenizer, texts: list[str], pooling: str = "mean") -> dict:
    """Figures of all tokens of the texts; rarity is minus the logarithm of the occurrences."""
    rows = [tokenizer.convert_ids_to_tokens(r) for r in tokenizer(texts)["input_ids"]]
    rows = [row[:128] for row in rows]
    counts = Counter(token for row in rows for token in row)
    depths = [d.numpy() for d in embed(model, tokenizer, texts, pooling)[1]]
    flat = np.concatenate(depths)
    cls, sep = tokenizer.cls_token, tokenizer.sep_token
    classes = [word_class(token, cls, sep) for row in rows for token in row]
    inner = np.array([name not in ("[CLS]", "[SEP]") for name in classes])
    rarity = -np.log([counts[token] for row in rows for token in row])
    position = np.concatenate([np.arange(len(row)) for row in rows])
    lengths = np.concatenate([np.full(len(row), len(row)) for row in rows])
    named = {"rarity": rarity, "position": position, "length of the text": lengths}
    return {
        "tokens": len(flat),
        "mean": float(flat.mean()),
        "deviation": float(flat.std()),
        "limit": model.config.num_hidden_layers,
        "spearman": {
            name: float(spearmanr(values[inner], flat[inner])[0]) for name, values in named.items()
        },
        "explained_by_token": explained(flat, [token for row in rows for token in row]),
        "explained_by_class": explained(flat, classes),
        "classes": {
            name: {
                "share": classes.count(name) / len(classes),
                "mean": float(flat[[c == name for c in classes]].mean()),
                "deviation": float(flat[[c == name for c in classes]].std()),
            }
            for name in CLASSES
            if name in classes
        },
    }


def as_table(found: dict) -> str:
    lines = [
        f"{found['tokens']} tokens, mean {found['mean']:.2f} of at most {found['limit']} "
        f"iterations, standard deviation {found['deviation']:.2f}",
        "",
        "| word class | share of tokens | mean iterations | standard deviation |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {100 * c['share']:.0f} % | {c['mean']:.2f} | {c['deviation']:.2f} |"
        for name, c in found["classes"].items()
    ]
    lines += ["", "| Spearman of iterations with | without [CLS] and [SEP] |", "|---|---|"]
    lines += [f"| {name} | {value:+.2f} |" for name, value in found["spearman"].items()]
    lines += [
        "",
        f"Of the variance of depth, word class explains {100 * found['explained_by_class']:.0f} %, "
        f"which token it is {100 * found['explained_by_token']:.0f} %.",
    ]
    return "\n".join(lines)


def draw(model, tokenizer, sentences: list[str], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    depths = [d.numpy() for d in embed(model, tokenizer, sentences, "mean")[1]]
    tokens = [tokenizer.convert_ids_to_tokens(r) for r in tokenizer(sentences)["input_ids"]]
    widest, limit = max(map(len, tokens)), model.config.num_hidden_layers
    figure, axes = pyplot.subplots(figsize=(0.62 * widest + 0.8, 0.55 * len(sentences) + 0.9))
    colours = pyplot.get_cmap("viridis_r")
    for row, (words, depth) in enumerate(zip(tokens, depths, strict=True)):
        for column, (word, n) in enumerate(zip(words, depth, strict=True)):
            share = n / limit
            axes.add_patch(
                pyplot.Rectangle((column, row), 0.96, 0.9, color=colours(share), linewidth=0)
            )
            ink = "white" if share > 0.45 else "black"
            size = 7.5 if len(word) < 9 else 60 / len(word)
            style = {"ha": "center", "va": "center", "color": ink}
            axes.text(column + 0.48, row + 0.33, word, size=size, **style)
            axes.text(column + 0.48, row + 0.7, f"{n:.0f}", size=6.5, **style)
    axes.set(xlim=(0, widest), ylim=(len(sentences), 0))
    axes.axis("off")
    axes.set_title(f"Iterations of each token (at most {limit})", loc="left", size=10)
    figure.savefig(picture, dpi=110, bbox_inches="tight")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    source = shipped_model(args.model) if args.model in shipped_models() else args.model
    tokenizer = load_tokenizer(source)
    model = AlbertActModel.from_pretrained(source, add_pooling_layer=False).eval()
    if args.picture:
        sentences = args.sentences.read_text(encoding="utf-8").splitlines()
        draw(model, tokenizer, [s for s in sentences if s.strip()], args.picture)
        print(f"wrote {args.picture}")
        return
    random = random_for(0, "sample")
    lines = [
        line
        for file in sorted(args.text.glob("*.txt"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    texts = [s for line in lines for s in sentences_of(line, random, 0.0, 0)]
    if not texts:
        raise FileNotFoundError(f"{args.text}: no text in *.txt files in it.")
    found = study(model, tokenizer, random.sample(texts, min(args.sample, len(texts))))
    print(json.dumps(found, indent=2) if args.json else as_table(found))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="sentence", help="a shipped model's name or a folder (sentence)")
    add("--text", type=Path, help="folder of *.txt files")
    add("--sample", type=int, default=3000, help="sentences drawn from them (default 3000)")
    add("--json", action="store_true", help="figures for programs")
    add("--sentences", type=Path, help="file of sentences for the picture")
    add("--picture", type=Path, help="draw the sentences' depths to this file")
    args = parser.parse_args(argv)
    if (args.text is None) == (args.picture is None) or bool(args.picture) != bool(args.sentences):
        parser.error("expected --text, or --sentences with --picture")
    return args


if __name__ == "__main__":
    main()
