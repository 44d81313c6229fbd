"""Talking to the embedded model through the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.serve.page.browser import Reader, ask, finished, reply_with, until, wait, write_long

if TYPE_CHECKING:
    from playwright.sync_api import Page

QUESTION = "你好，我是一个程序员。"


def test_a_message_is_answered_with_its_speed_below(page: Page) -> None:
    ask(page, QUESTION)
    reply = finished(page)
    assert page.locator(".message.user .bubble").inner_text() == QUESTION
    assert reply.locator(".answer").inner_text().strip()
    stats = reply.locator(".stats").inner_text()
    assert re.search(r"\d+ 词元 · 首词 \d+\.\d\d 秒$", stats), stats
    assert page.locator("#model").input_value() == "nano"


def test_a_reply_grows_while_it_is_written_and_stops_when_told(page: Page) -> None:
    write_long(page)
    ask(page, QUESTION)
    text = "document.querySelector('.message.assistant .answer')?.textContent.length"
    until(page, f"{text} > 5")
    early = page.evaluate(text)
    until(page, f"{text} > {early + 5}")
    assert page.locator("#send").get_attribute("aria-label") == "停止"
    page.press("#composer", "Escape")
    reply = finished(page, "stopped")
    kept = page.evaluate(text)
    assert kept > early
    assert "已停止" in reply.locator(".note").inner_text()
    assert page.locator("#send").get_attribute("aria-label") == "发送"
    page.wait_for_timeout(300)
    assert page.evaluate(text) == kept


def test_the_button_that_sends_also_stops(page: Page) -> None:
    write_long(page)
    page.fill("#composer", QUESTION)
    page.click("#send")
    page.wait_for_selector(".message.assistant .answer p")
    page.click("#send")
    finished(page, "stopped")


def test_retry_keeps_both_answers_as_versions(page: Page) -> None:
    ask(page, QUESTION)
    first = finished(page)
    before = first.get_attribute("data-id")
    first.get_by_label("重试").click()
    wait(page, "id => document.querySelector('.message.assistant').dataset.id !== id", before)
    second = finished(page)
    assert second.locator(".versions").inner_text().strip() == "2/2"
    second.get_by_label("上一个版本").click()
    shown = page.locator(".message.assistant")
    assert shown.get_attribute("data-id") == before
    assert shown.locator(".versions").inner_text().strip() == "1/2"
    assert shown.count() == 1


def test_an_edited_question_is_sent_again_and_the_old_one_kept(page: Page) -> None:
    ask(page, QUESTION)
    finished(page)
    page.locator(".message.user").get_by_label("编辑").click()
    page.locator(".message.user textarea").fill("你是谁？")
    page.locator(".message.user textarea").press("Enter")
    page.wait_for_selector(".message.user .bubble:text-is('你是谁？')")
    finished(page)
    page.locator(".message.user").get_by_label("上一个版本").click()
    assert page.locator(".message.user .bubble").inner_text() == QUESTION
    assert page.locator(".message.assistant").count() == 1


def test_what_was_said_before_is_part_of_the_question(page: Page) -> None:
    sent = []
    page.on("request", lambda r: r.url.endswith("completions") and sent.append(r.post_data_json))
    page.click("#settings")
    page.fill("#system", "你是一位老师。")
    page.fill("#set-temperature", "0")
    page.fill("#set-seed", "7")
    page.fill("#set-max_tokens", "12")
    page.keyboard.press("Escape")
    ask(page, QUESTION)
    answer = finished(page).locator(".answer").inner_text()
    ask(page, "再说一遍。")
    finished(page, count=2)
    assert sent[0]["messages"][0] == {"role": "system", "content": "你是一位老师。"}
    assert [m["role"] for m in sent[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert sent[1]["messages"][2]["content"].split() == answer.split()
    assert (sent[1]["temperature"], sent[1]["seed"], sent[1]["max_tokens"]) == (0, 7, 12)
    assert "top_p" not in sent[1]


def test_a_reload_keeps_history_draft_and_settings(page: Page) -> None:
    ask(page, QUESTION)
    answer = finished(page).locator(".answer").inner_text()
    page.fill("#composer", "还没写完的话")
    page.click("#settings")
    page.fill("#set-top_p", "0.5")
    page.keyboard.press("Escape")
    page.reload()
    assert finished(page).locator(".answer").inner_text() == answer
    assert page.locator("#composer").input_value() == "还没写完的话"
    assert page.locator("#set-top_p").input_value() == "0.5"
    assert page.locator("#conversations a[aria-current=page]").inner_text() == QUESTION


def test_two_tabs_at_once_overwrite_nothing(reader: Callable[..., Reader]) -> None:
    one = reader()
    left = one.open()
    ask(left, QUESTION)
    finished(left)
    right = one.open(left.evaluate("location.hash"))
    finished(right)
    write_long(left)
    write_long(right)
    left.fill("#composer", "左边的问题")
    right.fill("#composer", "右边的问题")
    left.press("#composer", "Enter")
    right.press("#composer", "Enter")
    for tab, text in ((left, "左边的问题"), (right, "右边的问题")):
        tab.wait_for_selector(f".message.user .bubble:text-is('{text}')")
        until(tab, "document.querySelectorAll('.message.assistant')[1]?.innerText.length > 9")
        until(tab, "document.querySelector('#send').classList.contains('stopping')")
    left.press("#composer", "Escape")
    right.press("#composer", "Escape")
    finished(left, "stopped", 2)
    finished(right, "stopped", 2)
    assert left.locator(".message.user").last.locator(".bubble").inner_text() == "左边的问题"
    assert right.locator(".message.user").last.locator(".bubble").inner_text() == "右边的问题"
    for tab in (left, right):
        tab.reload()
        finished(tab, "stopped", 2)
        seen = set()
        for label in ("上一个版本", "下一个版本"):
            arrow = tab.locator(".message.user").last.get_by_label(label)
            if arrow.is_enabled():
                arrow.click()
            seen.add(tab.locator(".message.user").last.locator(".bubble").inner_text())
        assert seen == {"左边的问题", "右边的问题"}
    assert one.faults == []


def test_a_tab_that_closes_leaves_what_it_had_and_a_retry(reader: Callable[..., Reader]) -> None:
    one = reader()
    page = one.open()
    write_long(page)
    ask(page, QUESTION)
    until(page, "document.querySelector('.message.assistant')?.innerText.length > 20")
    page.wait_for_timeout(600)
    where = page.evaluate("location.hash")
    page.close()
    again = one.open(where)
    reply = finished(again, "interrupted")
    assert len(reply.locator(".answer").inner_text()) > 5
    reply.get_by_role("button", name="重试").first.click()
    assert finished(again).locator(".versions").inner_text().strip() == "2/2"


def test_what_is_written_just_after_new_chat_is_said_in_the_new_one(page: Page) -> None:
    reply_with(page, "回答")
    ask(page, "第一个问题")
    finished(page)
    # No event that the browser sends later comes between these.
    page.evaluate(
        """text => {
            document.querySelector("#new-chat").click();
            const field = document.querySelector("#composer");
            field.value = text;
            field.dispatchEvent(new Event("input"));
            field.form.requestSubmit();
            document.querySelector("#conversations a").click();
        }""",
        "第二个问题",
    )
    until(page, "document.querySelectorAll('#conversations a').length === 2")
    titles = page.locator("#conversations a")
    assert titles.all_inner_texts() == ["第二个问题", "第一个问题"]
    for place, text in enumerate(titles.all_inner_texts()):
        titles.nth(place).click()
        page.wait_for_selector(f".message.user .bubble:text-is('{text}')")
        assert finished(page).locator(".answer").inner_text() == "回答"
        assert page.locator(".message").count() == 2


def test_conversations_are_found_renamed_deleted_and_brought_back(page: Page) -> None:
    reply_with(page, "关于菊花的回答")
    for text in ("第一个问题", "第二个问题"):
        page.click("#new-chat")
        ask(page, text)
        finished(page)
    titles = page.locator("#conversations a")
    until(page, "document.querySelectorAll('#conversations a').length === 2")
    assert titles.all_inner_texts() == ["第二个问题", "第一个问题"]

    page.fill("#search", "第一")
    until(page, "document.querySelectorAll('#conversations a').length === 1")
    page.fill("#search", "菊花")  # within the answers
    until(page, "document.querySelectorAll('#conversations a').length === 2")
    page.fill("#search", "")

    page.locator("#conversations .more").last.click()
    page.get_by_role("menuitem", name="重命名").click()
    page.locator(".rename").fill("新名字")
    page.locator(".rename").press("Enter")
    page.wait_for_selector("#conversations a:text-is('新名字')")

    page.locator("#conversations .more").last.click()
    page.get_by_role("menuitem", name="删除").click()
    until(page, "document.querySelectorAll('#conversations a').length === 1")
    page.get_by_role("button", name="撤销").click()
    page.wait_for_selector("#conversations a:text-is('新名字')")
    assert page.locator(".message.user .bubble").inner_text() == "第一个问题"


def test_conversations_leave_as_files_and_come_back(page: Page) -> None:
    reply_with(page, "**回答**")
    ask(page, "要带走的问题")
    finished(page)
    page.locator("#conversations .more").click()
    with page.expect_download() as saved:
        page.get_by_role("menuitem", name="导出 Markdown").click()
    text = saved.value.path().read_text("utf-8")
    assert text == "# 要带走的问题\n\n**你**\n\n要带走的问题\n\n**nano**\n\n**回答**\n"
    page.click("#settings")
    with page.expect_download() as saved:
        page.get_by_role("button", name="全部导出").click()
    page.locator("#drawer input[type=file]").set_input_files(saved.value.path())
    until(page, "document.querySelectorAll('#conversations a').length === 2")
    page.keyboard.press("Escape")
    page.locator("#conversations a").last.click()
    assert finished(page).locator("strong").inner_text() == "回答"
