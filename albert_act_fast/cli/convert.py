"""`convert`: weights that TensorFlow wrote as a folder that `from_pretrained` takes, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from albert_act_fast.cli.errors import CommandError, file_error, one_line
from albert_act_fast.cli.output import notice

_TOKENIZER = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with tf_model.h5, an .h5 file, or what the files of a TensorFlow "
            "checkpoint begin with (model.ckpt-112500; that needs TensorFlow).",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="config.json, or the albert_config.json of pre-training.",
            show_default="beside the weights",
        ),
    ] = None,
    hidden_act: Annotated[
        str | None,
        typer.Option(
            "--hidden-act",
            metavar="NAME",
            help="Another activation than the configuration's. The pre-training code's gelu is "
            "gelu_new here, and is taken as such from a checkpoint.",
        ),
    ] = None,
    to_tf: Annotated[
        bool,
        typer.Option("--to-tf", help="The other way: SOURCE is a model's folder, OUT gets an .h5."),
    ] = False,
) -> None:
    """Translate weights from TensorFlow's names to ours, or back.

    The model's class follows from the heads that are there. Variables that no weight answers to
    are named and left out; weights of the encoder that are missing are an error.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(f"OUT: got {str(output)!r}, which is there; expected a new folder")
    if to_tf:
        _to_tensorflow(source, output)
        return
    from albert_act_fast import tf_weights
    from albert_act_fast.text.loading import quiet_libraries

    try:
        found = tf_weights.read(source)
    except (OSError, ValueError, ImportError) as error:
        raise CommandError(f"SOURCE: got {source!r}: {one_line(error)}") from None
    if not found.weights:
        raise CommandError(f"SOURCE: got {source!r}, in which no variable is one of ALBERT-ACT's")
    settings = _settings(source, config)
    if hidden_act is not None:
        settings["hidden_act"] = hidden_act
    elif _is_checkpoint(source) and settings.get("hidden_act") == "gelu":
        settings["hidden_act"] = "gelu_new"
        notice("hidden_act: gelu of the pre-training code is the tanh form, written as gelu_new")
    with quiet_libraries():
        model, missing = _model(source, found, settings)
        try:
            model.save_pretrained(output)
            _copy_tokenizer(Path(source), output)
        except OSError as error:
            raise file_error("OUT", output, error, "written") from None
    for name in found.unknown:
        notice(f"left out: {name}, which is no weight of ALBERT-ACT")
    for name in sorted(missing):
        notice(f"new, not in {source}: {name}")
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{output}: {type(model).__name__}, {count} parameters, from {len(found.weights)} variables"
    )


def _model(source: str, found, settings: dict):
    import albert_act_fast
    from albert_act_fast import AlbertActConfig

    try:
        name = found.model_class()
        model_class = getattr(albert_act_fast, name)
        if name == "AlbertActForSequenceClassification":
            labels = len(found.weights["classifier.bias"])
            if labels != len(settings.get("id2label", ())):
                settings = {**settings, "num_labels": labels}
        config = AlbertActConfig.from_dict(settings)
        state = found.state_dict(name != "AlbertActModel")
        model = model_class(config)
        wanted = model.state_dict()
        for key, tensor in state.items():
            if tensor.shape != wanted[key].shape:
                raise ValueError(
                    f"{key} has shape {tuple(tensor.shape)}, expected {tuple(wanted[key].shape)} "
                    "by the configuration"
                )
        missing = set(wanted) - set(state) - {k for k in wanted if "predictions.decoder." in k}
        lost = sorted(k for k in missing if "embeddings." in k or "encoder." in k)
        if lost:
            raise ValueError(f"not ALBERT-ACT's weights: {', '.join(lost)} are missing")
        model.load_state_dict(state, strict=False)
    except (ValueError, TypeError) as error:
        raise CommandError(f"SOURCE: got {source!r}: {one_line(error)}") from None
    return model, missing


def _is_checkpoint(source: str) -> bool:
    return Path(f"{source}.index").exists()


def _settings(source: str, config: Path | None) -> dict:
    path = Path(source)
    beside = path if path.is_dir() else path.parent
    names = (config,) if config else (beside / "config.json", beside / "albert_config.json")
    for name in names:
        try:
            settings = json.loads(Path(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise file_error("--config", name, error) from None
        except ValueError as error:
            raise CommandError(f"--config: got {str(name)!r}, no JSON: {one_line(error)}") from None
        if not isinstance(settings, dict):
            raise CommandError(f"--config: got {str(name)!r}, expected an object of settings")
        return settings
    raise CommandError(
        f"--config: {' and '.join(map(str, names))} not found, expected the model's configuration"
    )


def _copy_tokenizer(source: Path, output: Path) -> None:
    import shutil

    folder = source if source.is_dir() else source.parent
    for name in _TOKENIZER:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, output / name)


def _to_tensorflow(source: str, output: Path) -> None:
    from albert_act_fast import tf_weights
    from albert_act_fast.text import loading

    try:
        with loading.quiet_libraries():
            model = loading.load(source).model
        output.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(output)
        tf_weights.write_h5(model, output / tf_weights.WEIGHTS_NAME)
        _copy_tokenizer(Path(loading.source_of(source)), output)
    except (OSError, ValueError, ImportError) as error:
        raise CommandError(f"SOURCE: got {source!r}: {one_line(error)}") from None
    print(f"{output}: {tf_weights.WEIGHTS_NAME} of {type(model).__name__}")
