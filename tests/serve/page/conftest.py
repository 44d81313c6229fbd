"""A real Chromium, a real `chatglm serve` with the embedded model behind it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from tests.serve.page.browser import BROWSERS, FLAGS, KEY, Reader, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service that most tests talk to."""
    pytest.importorskip("fastapi")
    server = Server(tmp_path_factory.mktemp("serve") / "log")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="package")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service of its own that asks for a key, for tests that end it."""
    pytest.importorskip("fastapi")
    server = Server(tmp_path_factory.mktemp("locked") / "log", "--api-key", KEY)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """A browser; tests skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def reader(chromium: Browser, server: Server) -> Iterator[Callable[..., Reader]]:
    """Makes readers, whose profiles are gone after the test."""
    readers: list[Reader] = []

    def make(url: str = server.url, **options: object) -> Reader:
        readers.append(Reader(chromium, url, **options))
        return readers[-1]

    yield make
    for one in readers:
        with suppress(Exception):
            one.context.close()


@pytest.fixture
def page(reader: Callable[..., Reader]) -> Iterator[Page]:
    """One page of one reader, in Chinese; no error may be on its console at the end."""
    one = reader()
    yield one.open()
    assert one.faults == []
    assert [url for url in one.requests if not url.startswith((one.url, "data:", "blob:"))] == []
