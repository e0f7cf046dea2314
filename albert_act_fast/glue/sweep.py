"""Speed against quality: the same weights under other halting rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from albert_act_fast.glue.evaluate import Evaluation, evaluate
from albert_act_fast.glue.tasks import Task
from albert_act_fast.text.results import HaltingRule

_ITERATIONS = (1, 2, 3, 4, 6, 8, 12, 16, 20)
_EPSILONS = (0.05, 0.1, 0.2, 0.3, 0.5)


def halting_rules(config) -> list[HaltingRule]:
    """Fewer iterations at most with the model's own threshold, the model's own rule, and higher
    values of act_epsilon with the model's own limit."""
    limit, epsilon = config.num_hidden_layers, config.act_epsilon
    rules = [HaltingRule(n, epsilon) for n in _ITERATIONS if n < limit]
    rules.append(HaltingRule(limit, epsilon))
    return rules + [HaltingRule(limit, e) for e in _EPSILONS if e > epsilon]


def sweep(
    model: PreTrainedModel,
    tokenizer: Any,
    task: str | Task,
    data: str | Path,
    implementation: str = "auto",
    *,
    rules: Sequence[HaltingRule] | None = None,
    **settings,
) -> Iterator[tuple[HaltingRule, Evaluation]]:
    """The model's `evaluate` under each rule, in turn; its own rule is set back after each.

    Args:
        rules: default, `halting_rules` of the model.
        The rest, and settings, as in `evaluate`, which also says what is raised.
    """
    config = model.config
    own = HaltingRule(config.num_hidden_layers, config.act_epsilon)
    for rule in halting_rules(config) if rules is None else rules:
        config.num_hidden_layers, config.act_epsilon = rule.max_iterations, rule.act_epsilon
        try:
            result = evaluate(model, tokenizer, task, data, implementation, **settings)
        finally:
            config.num_hidden_layers, config.act_epsilon = own.max_iterations, own.act_epsilon
        yield rule, result
