"""Plain DistributedDataParallel, in one process: every weight that wants a gradient gets one."""

from __future__ import annotations

import pytest
import torch
from support import models as builders
from support.one_process import one_process
from torch.nn.parallel import DistributedDataParallel

import albert_act_fast as aaf
from albert_act_fast.configuration import POSITION_TYPES

POSITIONS = tuple(POSITION_TYPES)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    with one_process(tmp_path_factory.mktemp("group")):
        yield


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("implementation", ["auto", "reference"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("cls", builders.TASKS)
def test_no_parameter_is_unused(cls, positions, implementation):
    """A parameter without a gradient makes DDP refuse the second step."""
    config = {"position_embedding_type": positions, "implementation": implementation}
    alone = builders.model(cls, act_tau=1e-3, **config).train()
    model = builders.model(cls, act_tau=1e-3, **config).train()
    for network in (alone, model):
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    model = DistributedDataParallel(model)
    batch = builders.batch(cls, labels=True)
    for _ in range(2):
        model(**batch).loss.backward()
        alone(**batch).loss.backward()
    for (name, parameter), expected in zip(
        model.module.named_parameters(), alone.parameters(), strict=True
    ):
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            builders.assert_close(parameter.grad, expected.grad)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_bare_model_too(positions):
    model = builders.model(position_embedding_type=positions).train()
    model = DistributedDataParallel(model)
    for _ in range(2):
        output = model(**builders.batch(aaf.AlbertActModel))
        (output.pooler_output.sum() + output.ponder_cost.sum()).backward()
