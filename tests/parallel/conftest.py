"""A recipe of a few seconds, and the processes that run it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.parallel.recipe import write_recipe
from tests.parallel.team import Team


@pytest.fixture(scope="session")
def recipe(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run over some lines of text."""
    return write_recipe(toy, tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Who runs commands in several processes."""
    with Team(tmp_path_factory.mktemp("team") / "log") as team:
        yield team
