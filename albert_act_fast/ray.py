"""Beyond one machine: the service under Ray Serve, and corpora through Ray Data.

Needs `pip install 'albert_act_fast[ray]'`. examples/ray_cluster.py runs both on a local Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from albert_act_fast.serve.settings import ModelOptions, ServeSettings

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.serve import Application

__all__ = ["deployment", "encode_dataset"]


def deployment(
    model: str | ModelOptions = "sentence",
    settings: ServeSettings | None = None,
    **options: Any,
) -> Application:
    """The service, for `ray.serve.run` or a Serve config file.

    Each replica is the application of `albert-act-fast serve`, with its own queue and metrics, and
    computes in its own process.

    Args:
        model: as in `albert_act_fast.serve.create_app`; every node has to find it.
        settings: default, those of `ServeSettings` without workers, as replicas are Ray's affair.
        options: of `ray.serve.deployment`: num_replicas, autoscaling_config, ray_actor_options
            (`{"num_cpus": 2}` gives a replica two threads), max_ongoing_requests, ...

    Raises:
        ImportError: ray is not installed.
        TypeError, ValueError: an argument is not what it should be.
    """
    serve = _ray("serve").serve
    if settings is None:
        settings = ServeSettings(workers=0)
    if not isinstance(model, str | ModelOptions):
        raise TypeError(f"model: got {type(model).__name__}, expected a name or ModelOptions.")
    if settings.workers:
        raise ValueError(
            f"workers: got {settings.workers}, expected 0: replicas are set with num_replicas."
        )
    options.setdefault("name", "albert_act_fast")
    # So many are sent to a replica; its queue holds them in its own order.
    options.setdefault("max_ongoing_requests", settings.max_concurrent_requests)

    def build():
        from albert_act_fast.serve.app import create_app

        return create_app(model, settings)

    return serve.deployment(**options)(serve.ingress(build)()).bind()


def encode_dataset(
    dataset: Dataset,
    *,
    model: str | ModelOptions = "sentence",
    column: str = "text",
    output_column: str = "embedding",
    batch_size: int = 1024,
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    encode: dict[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """The data set with one embedding a row more.

    Lazy, as Ray Data is: rows are read, encoded and written as they are consumed, a few batches at
    a time, in actors that each load the model once. Checkpoints (`DataContext`), retries and
    back-pressure are Ray Data's own.

    Args:
        column: of the texts.
        output_column: of the embeddings, float32 [H].
        batch_size: rows that an actor gets at once; it makes batches of like length of them.
        concurrency: actors, or the least and the most of them.
        num_cpus: of each actor, which computes with as many threads; default, Ray's.
        num_gpus: of each actor.
        encode: settings of `TextEncoder.encode`, such as normalize or truncation.
        options: of `Dataset.map_batches`.

    Raises:
        ImportError: ray is not installed.
        TextError: when the data set is consumed, wrapped by Ray: a text has no embedding.
    """
    _ray("data")
    for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if value is not None:
            options[name] = value
    return dataset.map_batches(
        _Encode,
        fn_constructor_args=(model, column, output_column, encode or {}),
        batch_size=batch_size,
        concurrency=concurrency,
        batch_format="numpy",
        **options,
    )


class _Encode:
    """An actor of Ray Data."""

    def __init__(self, model, column: str, output_column: str, settings: dict):
        # Ray sets OMP_NUM_THREADS to the actor's CPUs.
        self._encoder = (ModelOptions(model) if isinstance(model, str) else model).load()
        self._column, self._output, self._settings = column, output_column, settings

    def __call__(self, batch: dict) -> dict:
        if self._column not in batch:
            known = ", ".join(batch)
            raise ValueError(f"column: got {self._column!r}, expected one of {known}.")
        texts = batch[self._column].tolist()
        return {**batch, self._output: self._encoder.encode(texts, **self._settings)}


def _ray(part: str):
    try:
        import ray

        # What the extra brings besides ray itself.
        __import__(f"ray.{part}")
    except ImportError as error:
        raise ImportError(
            f"this needs ray with its part {part!r} ({error}): pip install 'albert_act_fast[ray]'"
        ) from None
    return ray
