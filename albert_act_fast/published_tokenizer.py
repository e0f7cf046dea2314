"""Texts cut as the published checkpoints were trained: sentencepiece, and ALBERT's rule for a comma
after a digit. With character offsets, which transformers' own Python tokenizers do not give."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import NamedTuple

import sentencepiece
from transformers import PreTrainedTokenizer
from transformers.tokenization_utils_base import AddedToken, BatchEncoding

_WORD = "▁"
_SPIECE = "spiece.model"


class Piece(NamedTuple):
    """A piece of a text and the characters it came from, `start` to `end`."""

    text: str
    start: int
    end: int


class AlbertActTokenizer(PreTrainedTokenizer):
    """The rule of transformers 4's Python `AlbertTokenizer`, which the published checkpoints were
    trained with: sentencepiece cuts the whole text; a piece that ends in a digit and a comma is cut
    once more without the comma.

    transformers 5's `AlbertTokenizer` makes tokens of the vocabulary's user-defined symbols
    (`( ) " - . – £ €`) before the rest is cut, and knows nothing of commas: "quiet ." and "2005,"
    come out otherwise, and so do about a third of all sentences with either.

    Args:
        vocab_file: the sentencepiece model.
        do_lower_case, remove_space, keep_accents: as in transformers 4.

    Raises:
        OSError: there is no such file. RuntimeError: sentencepiece cannot read it.
    """

    vocab_files_names = {"vocab_file": _SPIECE}
    model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str,
        do_lower_case: bool = True,
        remove_space: bool = True,
        keep_accents: bool = False,
        bos_token="[CLS]",
        eos_token="[SEP]",
        unk_token="<unk>",
        sep_token="[SEP]",
        pad_token="<pad>",
        cls_token="[CLS]",
        mask_token="[MASK]",
        **kwargs,
    ):
        self.vocab_file = vocab_file
        self.do_lower_case = do_lower_case
        self.remove_space = remove_space
        self.keep_accents = keep_accents
        self.sp_model = sentencepiece.SentencePieceProcessor(model_file=str(vocab_file))
        if isinstance(mask_token, str):
            # It takes the space before it along.
            mask_token = AddedToken(mask_token, lstrip=True, normalized=False, special=True)
        # Saved, too: the folder it was read from may have said another rule.
        kwargs["tokenization"] = "published"
        super().__init__(
            do_lower_case=do_lower_case,
            remove_space=remove_space,
            keep_accents=keep_accents,
            bos_token=bos_token,
            eos_token=eos_token,
            unk_token=unk_token,
            sep_token=sep_token,
            pad_token=pad_token,
            cls_token=cls_token,
            mask_token=mask_token,
            special_tokens_pattern="cls_sep",
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        return len(self.sp_model)

    def get_vocab(self) -> dict[str, int]:
        vocabulary = {self.sp_model.IdToPiece(i): i for i in range(len(self.sp_model))}
        return vocabulary | self._added_tokens_encoder

    def __getstate__(self) -> dict:
        return {**self.__dict__, "sp_model": self.sp_model.serialized_model_proto()}

    def __setstate__(self, state: dict) -> None:
        model = sentencepiece.SentencePieceProcessor(model_proto=state["sp_model"])
        self.__dict__ = {**state, "sp_model": model}

    def pieces(self, text: str) -> list[Piece]:
        """The pieces of a text, special tokens that are written out in it included, none added."""
        found: list[Piece] = []
        at = 0
        parts = self.tokens_trie.split(text)
        special = self._added_tokens_encoder.keys()
        for i, part in enumerate(parts):
            start, at = at, at + len(part)
            if part in special:
                found.append(Piece(part, start, at))
                continue
            behind = parts[i + 1] if i + 1 < len(parts) else None
            if behind in special and self._takes_space_along(behind):
                part = part.rstrip()
            found += [Piece(p.text, p.start + start, p.end + start) for p in self._cut(part)]
        return found

    def tokenize(self, text: str, **kwargs) -> list[str]:
        if kwargs.pop("split_special_tokens", self.split_special_tokens):
            return self._tokenize(text)
        return [piece.text for piece in self.pieces(text)]

    def _tokenize(self, text: str, **kwargs) -> list[str]:
        return [piece.text for piece in self._cut(text)]

    def _convert_token_to_id(self, token: str) -> int:
        return self.sp_model.PieceToId(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self.sp_model.IdToPiece(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return self.sp_model.DecodePieces(tokens)

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        prefix = "" if filename_prefix is None else f"{filename_prefix}-"
        path = Path(save_directory) / f"{prefix}{_SPIECE}"
        if Path(self.vocab_file).is_file():
            if Path(self.vocab_file).resolve() != path.resolve():
                shutil.copyfile(self.vocab_file, path)
        else:
            path.write_bytes(self.sp_model.serialized_model_proto())
        return (str(path),)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        cls, sep = [self.cls_token_id], [self.sep_token_id]
        behind = [] if token_ids_1 is None else [*token_ids_1, *sep]
        return [*cls, *token_ids_0, *sep, *behind]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        behind = [] if token_ids_1 is None else [1] * (len(token_ids_1) + 1)
        return [0] * (len(token_ids_0) + 2) + behind

    def _encode_plus(self, text, text_pair=None, **settings) -> BatchEncoding:
        """As transformers' own, with `return_offsets_mapping` for texts that are strings."""
        if not settings.pop("return_offsets_mapping", False):
            return super()._encode_plus(text, text_pair, **settings)
        if settings.get("return_overflowing_tokens") or settings.get("is_split_into_words"):
            raise NotImplementedError(
                "return_offsets_mapping: got it with return_overflowing_tokens or "
                "is_split_into_words, expected it without."
            )
        texts = [text] if isinstance(text, str) else list(text)
        pairs = [text_pair] if isinstance(text_pair, str) else text_pair
        pairs = [None] * len(texts) if pairs is None else list(pairs)
        wants_special = settings.pop("return_special_tokens_mask", False)
        wants_types = settings.pop("return_token_type_ids", None)
        encoded = super()._encode_plus(
            text,
            text_pair,
            **settings,
            return_special_tokens_mask=True,
            return_token_type_ids=True,
        )
        rows = {name: _rows(encoded[name]) for name in ("special_tokens_mask", "token_type_ids")}
        offsets = []
        for i, (one, pair) in enumerate(zip(texts, pairs, strict=True)):
            if isinstance(one, (list, tuple)):
                one, pair = one
            own = [[(p.start, p.end) for p in self.pieces(t or "")] for t in (one, pair)]
            masks = zip(rows["special_tokens_mask"][i], rows["token_type_ids"][i], strict=True)
            offsets.append(self._placed(own, list(masks)))
        if not wants_special:
            del encoded["special_tokens_mask"]
        if wants_types is False:
            del encoded["token_type_ids"]
        encoded["offset_mapping"] = offsets[0] if isinstance(text, str) else offsets
        if settings.get("return_tensors") is not None:
            shaped = offsets if not isinstance(text, str) else offsets[:1]
            only = BatchEncoding({"offset_mapping": shaped}, tensor_type=settings["return_tensors"])
            encoded["offset_mapping"] = only["offset_mapping"]
        return encoded

    def _takes_space_along(self, token: str) -> bool:
        return self._added_tokens_decoder[self._added_tokens_encoder[token]].lstrip

    def _placed(self, own: list[list], masks: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Offsets at the places of the texts' own tokens, (0, 0) at special ones and padding."""
        waiting = []
        for kind, offsets in enumerate(own):
            kept = sum(not special and of == kind for special, of in masks)
            cut = len(offsets) - kept
            left = self.truncation_side == "left"
            waiting.append(iter(offsets[cut:] if left else offsets[:kept]))
        return [(0, 0) if special else next(waiting[kind]) for special, kind in masks]

    def _cut(self, text: str) -> list[Piece]:
        """Pieces of a text without special tokens."""
        # Not above: importing the package shall not bring protobuf along.
        from sentencepiece.sentencepiece_pb2 import SentencePieceText

        prepared, places = self._prepared(text)
        # sentencepiece counts in bytes of UTF-8; each with the place its character came from.
        of_bytes = [i for c, i in zip(prepared, places, strict=True) for _ in c.encode()]
        cut = SentencePieceText.FromString(
            self.sp_model.encode(prepared, out_type="serialized_proto")
        ).pieces
        found: list[Piece] = []
        start = end = len(text)
        # From the last on: of several pieces of one character (½ is 1, ⁄, 2) the last has it.
        for piece in reversed(cut):
            if piece.end > piece.begin:
                # Up to the last character of its own: what was left out behind it is not its.
                start, end = of_bytes[piece.begin], of_bytes[piece.end - 1] + 1
            elif piece.piece == _WORD:
                end = start
            found.append(Piece(piece.piece, *_without_space(text, start, end)))
        return [part for piece in reversed(found) for part in self._without_comma(piece)]

    def _without_comma(self, piece: Piece) -> list[Piece]:
        text = piece.text
        if not (len(text) > 1 and text[-1] == "," and text[-2].isdigit()):
            return [piece]
        again = self.sp_model.EncodeAsPieces(text[:-1].replace(_WORD, ""))
        if text[0] != _WORD and again[0][0] == _WORD:
            again = again[1:] if len(again[0]) == 1 else [again[0][1:], *again[1:]]
        # Its characters one by one, if it has as many as the text; else all for each.
        exact = piece.end - piece.start == len(text.replace(_WORD, ""))
        at = piece.end - len(text.replace(_WORD, ""))
        found = []
        for part in [*again, ","]:
            end = at + len(part.replace(_WORD, ""))
            found.append(Piece(part, at, end) if exact else Piece(part, piece.start, piece.end))
            at = end
        return found

    def _prepared(self, text: str) -> tuple[str, list[int]]:
        """What sentencepiece gets, and for each of its characters the place it came from."""
        placed = [(c, i) for i, c in enumerate(text)]
        if self.do_lower_case:
            placed = [(low, i) for c, i in placed for low in c.lower()]
        if self.remove_space:
            placed = _one_space_between(placed)
        for quotes in ("``", "''"):
            placed = _replaced(placed, quotes, '"')
        if not self.keep_accents:
            placed = [
                (c, i)
                for whole, i in placed
                for c in unicodedata.normalize("NFKD", whole)
                if not unicodedata.combining(c)
            ]
        prepared = "".join(c for c, _ in placed)
        if self.do_lower_case:
            # Of the whole, because a sigma at the end of a word has a form of its own.
            lower = [(low, i) for c, i in placed for low in c.lower()]
            prepared, placed = prepared.lower(), lower
        return prepared, [i for _, i in placed]


def _one_space_between(placed: list[tuple[str, int]]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for c, i in placed:
        if not c.isspace():
            found.append((c, i))
        elif found and found[-1][0] != " ":
            found.append((" ", i))
    return found[:-1] if found and found[-1][0] == " " else found


def _replaced(placed: list[tuple[str, int]], old: str, new: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    at = 0
    while at < len(placed):
        if placed[at][0] == old[0] and [c for c, _ in placed[at : at + len(old)]] == list(old):
            found.append((new, placed[at][1]))
            at += len(old)
        else:
            found.append(placed[at])
            at += 1
    return found


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _rows(values) -> list[list[int]]:
    values = values.tolist() if hasattr(values, "tolist") else values
    return values if values and isinstance(values[0], list) else [values]
