"""What a task model says of texts: classes, masks, classes of tokens; and every token's depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from albert_act_fast.depth.data import TokenDepths
from albert_act_fast.text import pipeline
from albert_act_fast.text.compute import (
    PackedBatch,
    head_packed,
    run_padded,
    run_recorded,
    states_packed,
)
from albert_act_fast.text.errors import TextError
from albert_act_fast.text.loading import untrained_head
from albert_act_fast.text.results import (
    FilledMask,
    FilledText,
    TextClass,
    TextCost,
    TextDepth,
    TokenClass,
    TokenClasses,
)

if TYPE_CHECKING:
    from albert_act_fast.text.tokenize import TokenizedText


class TextTasks:
    """The part of TextEncoder that needs a head, or every token.

    Each method takes a string, or any iterable of strings, and gives one result, or a list in the
    order of the texts. All know the settings of `TextEncoder.encode`: `truncation`, `errors` (with
    "collect" a text's TextError stands in its result's place), `batch_tokens`, `batch_size`,
    `max_iterations` and `act_epsilon`.
    """

    def depth(self, texts: str | Iterable[str], **settings) -> TextDepth | list[TextDepth]:
        """How many iterations each token takes; `albert_act_fast.depth` draws it.

        Besides the settings of all: `probabilities=True` records p and the accumulated probability
        of every iteration. The reference loop computes them, whatever the implementation is, and
        the iterations and remainders beside them are that loop's own.

        Raises:
            ValueError: probabilities of an encoder that computes in int8, which that loop does not.
        """
        found = self._collect(texts, self.depths(_many(texts), **settings))
        return TokenDepths(found) if isinstance(found, list) else found

    def depths(self, texts: Iterable[str], *, probabilities: bool = False, **settings):
        """`depth` as a stream: an iterator in, an iterator out, as `TextEncoder.stream`."""
        if probabilities and self._frozen.model.config.quantization is not None:
            raise ValueError(
                "probabilities: the reference loop records them, which does not compute int8; "
                "expected an encoder without quantization."
            )
        return self._stream_tokens(
            texts, *self._depth_task(probabilities), recorded=probabilities, **settings
        )

    def _depth_task(self, probabilities: bool = False) -> tuple:
        def finish(text, out, cost, rule):
            iterations = out["n_updates"].int().tolist()
            remainders = out["remainders"].tolist()

            def recorded(name):
                if not probabilities:
                    return None
                return [r[:n] for r, n in zip(out[name].tolist(), iterations, strict=True)]

            return TextDepth(
                text.index,
                text.text,
                self._tokenizer.pieces(text.input_ids),
                text.input_ids,
                text.offsets,
                iterations,
                remainders,
                cost,
                rule,
                self._tokenizer.special_names(text),
                recorded("probabilities"),
                recorded("accumulated"),
            )

        return True, True, ("last_hidden_state", "n_updates", "remainders"), finish

    def classify(self, texts: str | Iterable[str], **settings) -> TextClass | list[TextClass]:
        """The class of each text, with the probability of every label.

        Raises:
            ValueError: the model has no trained head of that kind.
        """
        return self._collect(texts, self.classes(_many(texts), **settings))

    def classes(self, texts: Iterable[str], **settings):
        """`classify` as a stream."""
        return self._stream_tokens(texts, *self._class_task(), **settings)

    def _class_task(self, raw: bool = False) -> tuple:
        """raw: scores are the logits."""
        self._need("classify", "AlbertActForSequenceClassification")
        config = self._frozen.model.config
        names = [config.id2label[i] for i in range(config.num_labels)]
        several = config.problem_type == "multi_label_classification"
        regression = config.problem_type == "regression" or (
            config.problem_type is None and config.num_labels == 1
        )

        def finish(text, out, cost, rule):
            logits = out["logits"].float()
            if regression:
                scores = dict(zip(names, logits.tolist(), strict=True))
                score = logits[0].item()
                return TextClass(text.index, text.text, None, score, scores, [], cost, rule)
            probabilities = logits.sigmoid() if several else logits.softmax(-1)
            found = dict(zip(names, probabilities.tolist(), strict=True))
            label = max(found, key=found.get)
            labels = [n for n in names if found[n] > 0.5] if several else [label]
            scores = dict(zip(names, logits.tolist(), strict=True)) if raw else found
            return TextClass(
                text.index, text.text, label, scores[label], scores, labels, cost, rule
            )

        return False, False, ("logits", "n_updates"), finish

    def fill_mask(
        self, texts: str | Iterable[str], *, top_k: int = 5, **settings
    ) -> FilledText | list[FilledText]:
        """The most probable tokens in the place of each mask (the tokenizer's `mask_token`).

        A text without a mask fails, as kind "no mask".

        Raises:
            ValueError: the model has no trained head of that kind, or top_k is out of range.
        """
        return self._collect(texts, self.fills(_many(texts), top_k=top_k, **settings))

    def fills(self, texts: Iterable[str], *, top_k: int = 5, **settings):
        """`fill_mask` as a stream."""
        self._need("fill_mask", "AlbertActForMaskedLM", "AlbertActForPreTraining")
        entries = self._frozen.model.config.vocab_size
        if not (isinstance(top_k, int) and 1 <= top_k <= entries):
            raise ValueError(f"top_k: got {top_k!r}, expected a whole number from 1 to {entries}.")
        # Logits of every token over the whole vocabulary: 120 MB for as many tokens as this.
        settings.setdefault("batch_tokens", 1024)
        mask_id, mask = self.tokenizer.mask_token_id, self.tokenizer.mask_token

        def finish(text, out, cost, rule):
            places = [i for i, token in enumerate(text.input_ids) if token == mask_id]
            if not places:
                reason = f"got no {mask}, expected at least one"
                return TextError(text.index, text.text, "no mask", reason)
            masks = []
            for place in places:
                best = out["logits"][place].float().softmax(-1).topk(top_k)
                ids = best.indices.tolist()
                masks.append(
                    FilledMask(
                        place,
                        self._tokenizer.pieces(ids),
                        ids,
                        best.values.tolist(),
                        int(out["n_updates"][place]),
                    )
                )
            return FilledText(text.index, text.text, masks, cost, rule)

        return self._stream_tokens(texts, False, True, ("logits", "n_updates"), finish, **settings)

    def token_classify(
        self, texts: str | Iterable[str], **settings
    ) -> TokenClasses | list[TokenClasses]:
        """The class of each token that is no special one.

        Raises:
            ValueError: the model has no trained head of that kind.
        """
        return self._collect(texts, self.token_classes(_many(texts), **settings))

    def token_classes(self, texts: Iterable[str], **settings):
        """`token_classify` as a stream."""
        self._need("token_classify", "AlbertActForTokenClassification")
        names = self._frozen.model.config.id2label

        def finish(text, out, cost, rule):
            best = out["logits"].float().softmax(-1).max(-1)
            pieces = self._tokenizer.pieces(text.input_ids)
            found = [
                TokenClass(
                    pieces[i],
                    text.offsets[i] if text.offsets else None,
                    names[int(best.indices[i])],
                    best.values[i].item(),
                    int(out["n_updates"][i]),
                )
                for i in self._tokenizer.own_places(text)
            ]
            return TokenClasses(text.index, text.text, found, cost, rule)

        return self._stream_tokens(texts, True, True, ("logits", "n_updates"), finish, **settings)

    def _stream_tokens(
        self,
        texts: Iterable[str],
        offsets: bool,
        a_token: bool,
        fields: Sequence[str],
        finish: Callable,
        *,
        recorded: bool = False,
        truncation: bool = False,
        errors: str = "raise",
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        max_iterations: int | None = None,
        act_epsilon: float | None = None,
        **streaming,
    ):
        work = self._token_work(
            offsets,
            a_token,
            fields,
            finish,
            recorded=recorded,
            truncation=truncation,
            max_iterations=max_iterations,
            act_epsilon=act_epsilon,
        )
        settings = self._settings(batch_tokens, batch_size, errors, **streaming)
        return pipeline.run(texts, work, settings)

    def _token_work(
        self,
        offsets: bool,
        a_token: bool,
        fields: Sequence[str],
        finish: Callable,
        *,
        recorded: bool = False,
        truncation: bool = False,
        max_iterations: int | None = None,
        act_epsilon: float | None = None,
    ) -> pipeline.Work:
        """Runs the model with its head (without it for states) and hands each text's own part of
        the output's fields to `finish`; `a_token` says whether the first field has one value, or
        row, a token."""
        rule = self._frozen.rule_of(max_iterations, act_epsilon)
        headless = fields[0] == "last_hidden_state"

        def outputs(batch: PackedBatch) -> dict[str, Sequence]:
            if headless and not recorded:
                return states_packed(self._frozen, batch, rule=rule)
            if not (headless or recorded):
                found = head_packed(self._frozen, batch, rule=rule)
                if found is not None:
                    return found
            with self._frozen.under(rule) as model:
                model = self._bare(model) if headless else model
                if recorded:
                    out = run_recorded(model, batch)
                else:
                    out = run_padded(model, batch, implementation=self.implementation)
            main = out[fields[0]] if fields[0] in out else out["prediction_logits"]
            names = (*fields[1:], *(("probabilities", "accumulated") if recorded else ()))
            values = {fields[0]: main, **{name: out[name] for name in names}}
            return {
                name: [
                    row[:length] if a_token or name != fields[0] else row
                    for row, length in zip(value.cpu(), batch.lengths, strict=True)
                ]
                for name, value in values.items()
            }

        def compute(batch: Sequence[TokenizedText]) -> list:
            values = outputs(PackedBatch.of(batch))
            results = []
            for i, text in enumerate(batch):
                own = {name: value[i] for name, value in values.items()}
                if not own[fields[0]].isfinite().all():
                    results.append(self._not_finite(text))
                    continue
                n_updates = own["n_updates"].long()
                histogram = tuple(n_updates.bincount().tolist())
                length = len(text.input_ids)
                cost = TextCost(length, int(n_updates.sum()), text.truncated, 1, histogram)
                # Here, so that no text keeps the whole batch's output alive.
                results.append(finish(text, own, cost, rule))
            return results

        options = self._options(offsets, truncation)
        return self._work(options, compute, lambda windows, parts: parts[0])

    def _collect(self, texts: str | Iterable[str], stream) -> object:
        results = list(stream)
        return results[0] if isinstance(texts, str) else results

    def _need(self, method: str, *classes: str) -> None:
        model = self._frozen.model
        name = type(model).__name__
        if name not in classes:
            raise ValueError(f"{method}: got a {name}, expected a {' or '.join(classes)}.")
        untrained = untrained_head(self._missing)
        if untrained:
            raise ValueError(
                f"{method}: the checkpoint has no trained head: {', '.join(untrained)} are missing."
            )


def _many(texts: str | Iterable[str]) -> Iterable[str]:
    return [texts] if isinstance(texts, str) else texts
