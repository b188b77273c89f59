from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

# Before NumPy is imported: small matrices on shared cores are slower with more threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# The same examples on every run, and no failures because the machine is busy.
settings.register_profile("rlkv", derandomize=True, deadline=None)
settings.load_profile("rlkv")

RLKV = Path(__file__).parent / "rlkv"
FAULTS = RLKV / "faults"


@pytest.fixture(autouse=True)
def one_torch_thread() -> None:
    """Keeps torch on one thread without importing it for the tests that do not."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    # Paths of unix sockets are short; pytest's are not.
    with tempfile.TemporaryDirectory(prefix="rlkv-") as folder:
        yield Path(folder)


def pytest_configure(config: pytest.Config) -> None:
    """Compile on both cores at first: in one the workers' own functions wait for each other's."""
    if not hasattr(config, "workerinput") and config.getoption("numprocesses", None):
        # Not before: inside of vLLM nobody may have imported numba.
        from rlkv_agents.compile_ahead import compiling_ahead

        stack = ExitStack()
        stack.enter_context(compiling_ahead())
        config.add_cleanup(stack.close)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests of whole deployments have a folder, and a verb of the Makefile, of their own."""
    if FAULTS in item.path.parents:
        item.add_marker("system")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The command line's tests go last.

    Two workers begin a half each: one has code compiled that the other's first tests, of the
    service, do not wait for.
    """
    items.sort(key=lambda item: RLKV in item.path.parents)
