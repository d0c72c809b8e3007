"""What every test stands on: one thread, one seed, and nothing from the developer's environment."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PORT", None)
for _name in [name for name in os.environ if name.startswith("UL_")]:
    del os.environ[_name]

import pytest  # noqa: E402  the environment comes first: torch and its children read it
import torch  # noqa: E402

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: the last file of all keeps only one process busy."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Networks made in a test start from the same weights in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A stream of one's own, for data that no other draw may move."""
    return torch.Generator().manual_seed(0)
