"""A real PostgreSQL of this test run's own, and a store in each database."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatglm.apps.knowledge.store import SqlStore, open_store


def programs() -> Path | None:
    """The directory of initdb and postgres; None where there is no PostgreSQL."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr/local/pgsql").glob("bin")]
    there = [folder for folder in found if (folder / "initdb").exists()]
    on_path = shutil.which("initdb")
    return max(there) if there else Path(on_path).parent if on_path else None


def unprivileged() -> str | None:
    """A user who may run a server where this one may not; None for the same user."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server that lives as long as the tests, or of one that is given."""
    pytest.importorskip("psycopg")
    if given := os.environ.get("CHATGLM_TEST_POSTGRES"):
        yield given
        return
    folder = programs()
    if folder is None:
        pytest.skip("needs PostgreSQL's initdb and postgres; apt-get install postgresql")
    user = unprivileged()
    home = Path(tempfile.mkdtemp(prefix="chatglm-postgres-"))
    home.chmod(0o777)
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(
            [str(folder / command[0]), *command[1:]],
            check=True,
            user=user,
            cwd="/",
            stdout=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )

    data = str(home / "data")
    run("initdb", "-D", data, "-U", "tests", "--auth=trust", "-E", "UTF8", "--no-sync")
    options = f"-p {port} -k {home} -c fsync=off -c listen_addresses=127.0.0.1"
    run("pg_ctl", "-D", data, "-l", str(home / "log"), "-o", options, "-w", "start")
    try:
        yield f"postgresql://tests@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a base of this test alone may live, once in each database."""
    if request.param == "sqlite":
        return str(tmp_path / "base.sqlite")
    return f"{request.getfixturevalue('postgres')}#t{uuid.uuid4().hex}"


@pytest.fixture
def store(location: str) -> Iterator[SqlStore]:
    """An empty store in each database."""
    made = open_store(location)
    yield made
    made.close()
