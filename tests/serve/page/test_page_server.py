"""A service that wants a key, is busy, ends while it answers, and comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.serve.page.browser import (
    KEY,
    Reader,
    Server,
    ask,
    finished,
    reply_with,
    until,
    write_long,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUESTION = "你好，我是一个程序员。"


def unlock(page: Page, key: str) -> None:
    """Type a key into the dialog that asks for it."""
    page.fill("#key-field", key)
    page.click("#key-dialog [type=submit]")


def test_a_key_is_asked_for_and_kept_for_the_tab_only(
    reader: Callable[..., Reader], locked: Server
) -> None:
    one = reader(locked.url)
    page = one.open()
    page.wait_for_selector("#key-dialog[open]")
    unlock(page, "wrong")
    page.wait_for_selector("#key-dialog[open]")
    page.route("**/v1/models", lambda route: (page.wait_for_timeout(500), route.continue_()))
    unlock(page, KEY)
    ask(page, QUESTION)  # before the list of models is there
    finished(page)
    assert page.locator("#model").input_value() == "nano"
    page.unroute_all()
    page.reload()
    finished(page)
    assert page.locator("#key-dialog[open]").count() == 0
    kept = page.evaluate("() => [JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert [KEY in text for text in kept] == [False, True]
    other = one.open()
    other.wait_for_selector("#key-dialog[open]")


def test_a_service_that_ends_while_it_answers_is_waited_for(
    reader: Callable[..., Reader], locked: Server
) -> None:
    page = reader(locked.url).open()
    unlock(page, KEY)
    write_long(page)
    ask(page, QUESTION)
    until(page, "document.querySelector('.message.assistant .answer')?.textContent.length > 9")
    locked.kill()
    reply = finished(page, "failed")
    kept = reply.locator(".answer").inner_text()
    assert len(kept) > 5
    assert "连接断了" in reply.locator(".note").inner_text()
    page.wait_for_selector("#banner", state="visible")
    page.fill("#composer", "在断开时写的")
    page.press("#composer", "Enter")
    later = finished(page, "failed", 2)
    assert page.locator(".message.user .bubble").last.inner_text() == "在断开时写的"

    locked.start()
    page.wait_for_selector("#banner", state="hidden")
    page.wait_for_selector(".toast:has-text('已重新连接')")
    assert page.locator(".answer").first.inner_text() == kept
    page.unroute_all()
    later.locator(".note button").click()
    answer = finished(page, "done", 2)
    assert answer.locator(".answer").inner_text().strip()
    page.reload()
    assert finished(page, "done", 2).locator(".versions").inner_text().strip() == "2/2"


def test_a_stream_without_its_end_is_no_answer(page: Page) -> None:
    reply_with(page, "只有一半", finish=None)
    ask(page, QUESTION)
    reply = finished(page, "failed")
    assert reply.locator(".answer").inner_text() == "只有一半"
    assert reply.locator(".note").get_by_role("button", name="重试").is_visible()


def test_an_error_says_what_the_service_said(reader: Callable[..., Reader]) -> None:
    page = reader().open()
    error = {
        "message": "the queue is full",
        "type": "rate_limit_error",
        "param": None,
        "code": None,
    }
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=429,
            content_type="application/json",
            headers={"Retry-After": "5"},
            body=json.dumps({"error": error}),
        ),
    )
    ask(page, QUESTION)
    note = finished(page, "failed").locator(".note")
    assert "服务正忙" in note.inner_text()
    assert "the queue is full 请在 5 秒后重试。" in note.inner_text()


def test_an_answer_that_was_cut_at_the_limit_says_so(page: Page) -> None:
    reply_with(page, "很长的回答", finish="length")
    ask(page, QUESTION)
    assert "长度上限" in finished(page).locator(".note").inner_text()


def test_a_conversation_that_has_become_too_long_can_go_on(
    reader: Callable[..., Reader],
) -> None:
    page = reader().open()
    reply_with(page, "很长的回答。" * 900)
    ask(page, "第一个问题")
    finished(page)
    page.unroute_all()
    ask(page, "第二个问题")
    note = finished(page, "failed", 2).locator(".note")
    assert "1024" in note.inner_text().replace(",", "")
    sent = []
    page.on("request", lambda r: r.url.endswith("completions") and sent.append(r.post_data_json))
    note.get_by_role("button", name="不带前文重试").click()
    reply = finished(page, "done", 2)
    assert "没有带上更早的对话" in reply.locator(".note").inner_text()
    ask(page, "第三个问题")
    finished(page, "done", 3)
    asked = [[m["content"] for m in body["messages"] if m["role"] == "user"] for body in sent]
    assert asked == [["第二个问题"], ["第二个问题", "第三个问题"]]


def test_the_browser_asks_whether_a_file_has_changed(page: Page) -> None:
    answers = {}
    page.on("response", lambda r: answers.update({r.url: (r.status, r.header_value)}))
    page.reload()
    page.wait_for_selector("body[data-ready]", state="attached")
    files = {url: found for url, found in answers.items() if "/scripts/" in url}
    assert len(files) > 20
    for _, header in files.values():
        assert header("cache-control") == "no-cache"
    assert page.evaluate("async () => (await fetch('/')).headers.get('content-security-policy')")
