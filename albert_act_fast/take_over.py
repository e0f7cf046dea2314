"""Runs a live model of the published `act` package on the engine, in place."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from albert_act_fast.configuration import AlbertActConfig
from albert_act_fast.engine.row_wise import changed
from albert_act_fast.modeling import AlbertActModel
from albert_act_fast.modeling.base import refuse_tracing

Model = TypeVar("Model", bound=nn.Module)

_CONFIG_FIELDS = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "position_embedding_type",
    "act_epsilon",
    "pad_token_id",
    "output_hidden_states",
    "return_dict",
)


def accelerate(model: Model) -> Model:
    """Makes a live model of the published `act` package run on the engine.

    The model keeps its modules and weights (shared, not copied: training, `to`, `half` and
    `load_state_dict` go on working); only what its encoder's `forward` does changes. It is
    recognised by its structure; the `act` package is not imported.

    Args:
        model: an `act.AlbertActModel`, or any module that holds one (the task models do). Its
            `config` is read here, once. Models of this package are left as they are: they run on
            the engine already.

    Returns:
        The same model.

    Raises:
        ValueError: no part of the model has ALBERT-ACT's structure; the message says why.
    """
    encoders = [module for module in model.modules() if _looks_like_base(module)]
    if not encoders:
        raise ValueError(_why_not(model))
    # All are checked before the first is changed.
    forwards = [
        _EngineForward(base)
        for base in encoders
        if _engine_forward(base) is None and not isinstance(base, AlbertActModel)
    ]
    for forward in forwards:
        forward.host.__dict__["forward"] = forward
    return model


def restore(model: Model) -> Model:
    """Undoes `accelerate`.

    Returns:
        The same model, with its own `forward` again.

    Raises:
        ValueError: no part of the model was accelerated.
    """
    accelerated = [module for module in model.modules() if _engine_forward(module) is not None]
    if not accelerated:
        raise ValueError(
            f"model: got {type(model).__name__} with no accelerated part, expected a model that "
            "albert_act_fast.accelerate returned."
        )
    for module in accelerated:
        previous = module.__dict__.pop("forward").previous
        if previous is not None:
            module.__dict__["forward"] = previous
    return model


def _engine_forward(module: nn.Module) -> _EngineForward | None:
    forward = module.__dict__.get("forward")
    return forward if isinstance(forward, _EngineForward) else None


class _EngineForward:
    """Stands in for the `forward` of `host`: a model of ours made of the host's own modules."""

    def __init__(self, host: nn.Module):
        self.host = host
        self.previous = host.__dict__.get("forward")
        with torch.device("meta"):
            self.model = AlbertActModel(
                _config_of(host), add_pooling_layer=getattr(host, "pooler", None) is not None
            )
        _check_structure(host, self.model)
        own = dict(host.named_modules())
        # Modules with weights, and those without children: their place is taken by the host's.
        self.shared = [
            name
            for name, module in self.model.named_modules()
            if module._parameters
            or (name in own and not module._modules and not own[name]._modules)
        ]
        self.bypassed = {
            name: type(module)
            for name, module in own.items()
            if name not in self.shared and module is not host
        }

    def __call__(self, *args, **kwargs):
        refuse_tracing()
        # Looked up at every call, so that modules replaced in the host (resized, quantised,
        # adapted ones) are the ones that run.
        for name in self.shared:
            parent, _, child = name.rpartition(".")
            self.model.get_submodule(parent)._modules[child] = self.host.get_submodule(name)
        self._check_bypassed()
        if self.model.training != self.host.training:
            self.model.training = self.host.training
        return self.model(*args, **kwargs)

    def _check_bypassed(self) -> None:
        """The host's modules whose forward is never called are as they were.

        Raises:
            ValueError: one was hooked, replaced or added since.
        """
        for name, module in self.host.named_modules():
            if module is self.host or any(
                name == known or name.startswith(f"{known}.") for known in self.shared
            ):
                continue
            reason = changed(module)
            if name not in self.bypassed:
                reason = "was added"
            elif type(module) is not self.bypassed[name]:
                reason = f"was replaced by a {type(module).__name__}"
            if reason is not None:
                raise ValueError(
                    f"model: {name} {reason} since the model was accelerated, and the engine never "
                    "calls it. albert_act_fast.restore(model) gives back the model's own loop."
                )


def _looks_like_base(module: nn.Module) -> bool:
    return hasattr(getattr(module, "encoder", None), "albert_layer") and hasattr(
        module, "embeddings"
    )


def _why_not(model: nn.Module) -> str:
    message = (
        f"model: got {type(model).__name__}, expected act.AlbertActModel or a model with one: "
    )
    if any(hasattr(module, "albert_layer_groups") for module in model.modules()):
        return message + (
            "this is ALBERT with a fixed depth (encoder.albert_layer_groups), no token ever halts."
        )
    return message + "no part of it has `embeddings` and `encoder.albert_layer`."


def _config_of(host: nn.Module) -> AlbertActConfig:
    config = getattr(host, "config", None)
    if config is None:
        raise ValueError(f"model: {type(host).__name__} has no `config`, expected ALBERT-ACT's.")
    fields = {name: getattr(config, name) for name in _CONFIG_FIELDS if hasattr(config, name)}
    if "act_epsilon" not in fields:
        raise ValueError(
            f"model: the config of {type(host).__name__} has no `act_epsilon`, expected "
            "ALBERT-ACT's halting threshold."
        )
    return AlbertActConfig(**fields)


def _check_structure(host: nn.Module, expected: nn.Module) -> None:
    """Exactly ALBERT-ACT's weights, no more (they would be ignored) and no fewer."""
    given = {name: tuple(p.shape) for name, p in host.named_parameters(remove_duplicate=False)}
    wanted = {name: tuple(p.shape) for name, p in expected.named_parameters(remove_duplicate=False)}
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not part of ALBERT-ACT" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {given[name]}, expected {wanted[name]}"
        for name in wanted
        if name in given and given[name] != wanted[name]
    ]
    if problems:
        raise ValueError(f"model: {type(host).__name__} is not ALBERT-ACT: {'; '.join(problems)}.")
