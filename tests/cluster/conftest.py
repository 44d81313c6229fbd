"""One cluster of two nodes for all tests here; without Ray they skip."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.cluster.nodes import Nodes
from tests.parallel.recipe import write_recipe


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """The cluster."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray: pip install 'chatglm[cluster]'")
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def recipe(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run over some lines of text."""
    return write_recipe(toy, tmp_path_factory.mktemp("recipe"))
