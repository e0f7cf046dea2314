"""What all tests share: the gpu mark, seeds, and the hypothesis profiles."""

import random
import signal
import zlib

import pytest
from hypothesis import HealthCheck, settings

# `repeatable` is the default: the same examples in every run. No time limit, neither for an example
# nor for making one, so that a slow machine fails nothing. `pytest --hypothesis-profile=explore`
# looks for new ones.
_UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, max_examples=25, **_UNTIMED)
settings.register_profile("explore", max_examples=500, **_UNTIMED)
settings.load_profile("repeatable")

# A shell starts its background jobs, and `nohup` all, with some signals ignored, which programs
# that the tests start would go on ignoring.
for name in ("SIGINT", "SIGQUIT", "SIGHUP"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        signal.signal(number, default)


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")  # pytest-xdist's


def pytest_sessionstart(session: pytest.Session) -> None:
    # A process that hands the tests out to others runs none, and they start once it is there: it
    # imports no library.
    if getattr(session.config.option, "dist", "no") != "no" and not is_worker(session.config):
        return
    # Before the tests are collected, which ask which implementations there are.
    from support import cuda_on_cpu

    from albert_act_fast.flags import is_set

    if is_set("TRITON_INTERPRET"):
        from support.triton_interpreter import install

        install()
    if cuda_on_cpu.asked_for() and cuda_on_cpu.why_not() is None:
        cuda_on_cpu.install()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # pytest-xdist 3.8 marks a group in the test's id, which pytest 9.2 does not let it change: each
    # worker would build what one is to build for all.
    if getattr(config.option, "loadgroup", False):
        for item in items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
                raise pytest.UsageError(f"{item.nodeid}: its xdist_group has no effect.")
    import torch

    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)


def seed_by(name: str) -> None:
    import numpy
    import torch

    seed = zlib.crc32(name.encode())
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


# What a test, or a library for it, draws without a seed of its own is the same in every run,
# whichever tests its process has run before; so is what the fixtures of a whole file draw.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seed_by(item.nodeid.split("::")[0])


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    seed_by(request.node.nodeid.split("@")[0])
