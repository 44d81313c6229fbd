"""What the page's tests act with: a server process, readers with browsers, things readers do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

from chatglm.checkpoint.resolve import NANO
from chatglm.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KEY = "a key of the tests"
# A setting of the reader's, so that no test waits for a long reply.
BRIEFLY = """if (location.protocol === "http:") {
    localStorage["chatglm.sampling"] ??= '{"max_tokens": 24}';
}"""
PATIENCE = 90_000
SHOWN = """() => ({
    address: location.hash,
    written: document.querySelector("#composer")?.value,
    sends: document.querySelector("#send")?.title,
    banner: document.querySelector("#banner")?.hidden === false,
    replies: [...document.querySelectorAll(".message.assistant")].map((m) => m.dataset.state),
    log: document.querySelector("#log")?.innerText.slice(-500),
})"""


class Server:
    """A `chatglm serve` process on a port of its own, which can be killed and started again."""

    def __init__(self, log: Path, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log, self.flags = log, flags
        self.home = log.parent / "home"
        self.home.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process and waits until it is well."""
        command = [sys.executable, "-m", "chatglm", "serve", "--offline", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.flags],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CHATGLM_HOME": str(self.home)},
            )
        deadline = time.monotonic() + 2 * PATIENCE / 1000
        while not self.is_well():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def is_well(self) -> bool:
        """Whether /health says so."""
        try:
            with urllib.request.urlopen(f"{self.url}health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Reader:
    """A person with a browser profile of their own: pages, what they show, what went wrong."""

    def __init__(self, browser: Browser, url: str, **options: object) -> None:
        self.url = url
        settings = {"viewport": {"width": 1280, "height": 800}, "locale": "zh-CN", **options}
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(PATIENCE)
        self.context.add_init_script(BRIEFLY)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("weberror", lambda fault: self.faults.append(str(fault.error)))
        self.context.on("console", self.hear)

    def hear(self, message: ConsoleMessage) -> None:
        """Keeps what the console says of errors, refused scripts among them."""
        if message.type == "error":
            self.faults.append(message.text)

    def open(self, fragment: str = "") -> Page:
        """A new tab with the page, ready."""
        page = self.context.new_page()
        page.goto(self.url + fragment)
        page.wait_for_selector("body[data-ready]", state="attached")
        return page


def write_long(page: Page) -> None:
    """Make replies on a page go on to their limit, so that there is time to act meanwhile. They
    have words only: of special tokens nothing would be seen.
    """
    special = load_tokenizer(NANO).special.values()

    def change(route: Route) -> None:
        body = json.loads(route.request.post_data)
        body |= {"ignore_eos": True, "max_tokens": 800}
        body["logit_bias"] = {str(token): -100 for token in special}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", change)


def reply_with(page: Page, *texts: str, reasoning: str = "", finish: str | None = "stop") -> None:
    """Make the service answer a page with these pieces of text."""
    deltas: list[dict[str, object]] = [{"role": "assistant", "content": ""}]
    if reasoning:
        deltas.append({"reasoning_content": reasoning})
    deltas += [{"content": text} for text in texts]
    events = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
    if finish:
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    lines = [f"data: {json.dumps(e, ensure_ascii=False)}\n\n" for e in events]
    body = "".join(lines) + ("data: [DONE]\n\n" if finish else "")
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )


def ask(page: Page, text: str) -> None:
    """Write a message and send it by Enter."""
    page.fill("#composer", text)
    page.press("#composer", "Enter")


def finished(page: Page, state: str = "done", count: int = 1) -> Locator:
    """The newest reply once `count` replies are there and the newest has a state."""
    replies = page.locator(".message.assistant")
    wait(
        page,
        """([state, count]) => {
            const all = [...document.querySelectorAll(".message.assistant")];
            return all.length >= count && all.at(-1).dataset.state === state;
        }""",
        [state, count],
    )
    return replies.last


def until(page: Page, expression: str) -> None:
    """Wait until an expression holds on a page; its policy lets no text be run, but a function."""
    wait(page, f"() => {expression}")


def wait(page: Page, function: str, argument: object = None) -> None:
    """Wait until a function of the page says yes. It is asked by a timer: a busy browser may draw
    nothing for long, and playwright would ask whenever it draws. Where it never does, what the page
    shows is told.
    """
    from playwright.sync_api import TimeoutError as TooLate

    try:
        page.wait_for_function(function, arg=argument, polling=100)
    except TooLate as error:
        raise AssertionError(page.evaluate(SHOWN)) from error
