"""GLUE's metrics, by scikit-learn and SciPy, in per cent as in the published tables."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import ModuleType

_NEEDS = (
    "GLUE's metrics need scikit-learn and scipy: pip install scikit-learn scipy "
    "(or albert_act_fast[eval])."
)


def libraries() -> tuple[ModuleType, ModuleType]:
    """`scipy.stats` and `sklearn.metrics`; called before long work whose end needs them.

    Raises:
        ImportError: scikit-learn or SciPy is not installed; the message says how to.
    """
    try:
        from scipy import stats
        from sklearn import metrics
    except ImportError as error:
        raise ImportError(_NEEDS) from error
    return stats, metrics


def score(
    names: Sequence[str], predictions: Sequence[float], labels: Sequence[float]
) -> dict[str, float]:
    """The named metrics in per cent.

    A correlation that is not defined (all predictions equal) is nan.

    Raises:
        ValueError: an unknown metric, or lists of different length.
        ImportError: scikit-learn or SciPy is not installed.
    """
    stats, metrics = libraries()
    known = {
        "accuracy": metrics.accuracy_score,
        "f1": metrics.f1_score,
        "matthews": metrics.matthews_corrcoef,
        "pearson": lambda labels, predictions: stats.pearsonr(predictions, labels).statistic,
        "spearman": lambda labels, predictions: stats.spearmanr(predictions, labels).statistic,
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"metric: got {', '.join(map(repr, unknown))}, expected one of {', '.join(known)}."
        )
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return {name: 100 * float(known[name](labels, predictions)) for name in names}
