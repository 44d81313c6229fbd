"""The tabs beside the chat: blanks, summaries, translations, writing, customer service."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.serve.page.browser import Reader, Server, until

import chatglm
from chatglm.apps.translate.kept import faults

if TYPE_CHECKING:
    from playwright.sync_api import Page

SOURCE = Path(chatglm.__file__).parent
STORY = "小明早上去了公园。公园里的花都开了，红的、黄的、白的，非常漂亮。他在那里遇到了同学小红。"


@pytest.fixture
def shop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example bases, where the server looks for them."""
    from chatglm.apps.support.demo import prepare

    monkeypatch.setenv("CHATGLM_HOME", str(server.home))
    prepare()


def result_of(page: Page, name: str) -> str:
    """What a panel came to, once it is done."""
    until(page, f"document.querySelector('#panel-{name} .result:not([hidden], [aria-busy])')")
    return page.locator(f"#{name}-result").inner_text()


def test_a_tab_without_its_endpoint_is_not_shown(page: Page) -> None:
    shown = page.locator("[role=tab]:visible")
    assert shown.all_inner_texts() == ["对话", "填空", "客服", "摘要", "翻译", "写作"]
    lacking = {"paths": {"/v1/chat/completions": {}, "/v1/translate": {}}}
    page.route("**/openapi.json", lambda route: route.fulfill(json=lacking))
    page.reload()
    page.wait_for_selector("body[data-ready]", state="attached")
    assert shown.all_inner_texts() == ["对话", "翻译"]


def test_blanks_fill_in_visibly(page: Page) -> None:
    page.click("#tab-fill")
    page.fill("#fill-text", "今天[MASK]，适合[MASK]。")
    page.get_by_role("button", name="＋ 句子").click()
    assert page.locator("#fill-text").input_value() == "今天[MASK]，适合[MASK]。[sMASK]"
    page.locator("#panel-fill [type=submit]").click()
    until(page, "document.querySelectorAll('#fill-result .filled').length === 3")
    assert page.locator("#fill-result .blank").count() == 0
    text = page.locator("#fill-result").inner_text()
    assert text.startswith("今天")
    assert "，适合" in text
    assert "[" not in text


def test_a_text_is_summed_up(page: Page) -> None:
    page.click("#tab-summarize")
    assert page.locator("#panel-summarize [type=submit]").is_disabled()
    page.fill("#summarize-text", STORY * 3)
    page.select_option("#summarize-mode", "extractive")
    page.locator("#panel-summarize [type=submit]").click()
    text = result_of(page, "summarize")
    assert text.strip()
    assert len(text) < len(STORY) * 3
    assert "摘取原句" in page.locator("#panel-summarize .stats").inner_text()


def test_a_document_is_translated_with_its_structure(page: Page) -> None:
    page.click("#tab-translate")
    subtitles = b"1\n00:00:01,000 --> 00:00:02,000\nGood morning.\n"
    page.locator("#panel-translate input[type=file]").set_input_files(
        {"name": "film.srt", "mimeType": "text/plain", "buffer": subtitles}
    )
    until(page, "document.querySelector('#translate-format').value === 'srt'")
    page.select_option("#translate-target", "zh")
    page.locator("#panel-translate [type=submit]").click()
    assert "00:00:01,000 --> 00:00:02,000" in result_of(page, "translate")


def translated_with(page: Page, *notes: str) -> str:
    """The line below a translation of which the service has these remarks."""
    told = {"object": "translation", "text": "译文", "origins": {"source": 1}, "notes": notes}
    page.route(
        "**/v1/translate",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"data: {json.dumps(told)}\n\ndata: [DONE]\n\n"
        ),
    )
    page.click("#tab-translate")
    page.fill("#translate-text", "Hello {name}, take 3.")
    page.locator("#panel-translate [type=submit]").click()
    result_of(page, "translate")
    return page.locator("#panel-translate .stats").inner_text()


def test_remarks_on_a_translation_are_in_the_language_of_the_page(
    page: Page, reader: Callable[..., Reader]
) -> None:
    lost = faults("Hello {name}, take 3.", "你好", "plain")
    notes = [f"line 1: not translated: {one}" for one in lost] + ["line 2: it is of no known kind"]
    shown = translated_with(page, *notes)
    for remark in ("1 处未译", "第 1 行：未译：缺少 {name}", "第 1 行：未译：缺少数字 3"):
        assert f"{remark} · " in shown
    assert "第 2 行：it is of no known kind · " in shown
    english = translated_with(reader(locale="en-US").open(), *notes)
    assert all(f"{note} · " in english for note in notes)


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in some code but for docstrings, {} for each value in them."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                yield from texts(child)


def says_remarks(node: ast.AST) -> bool:
    """Whether some code tells what is wrong with a reply, or adds a remark."""
    if isinstance(node, ast.FunctionDef):
        return node.name in ("faults", "problems", "strangeness", "unchanged")
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("notes.append")


def test_every_remark_of_the_applications_has_words_on_the_page(page: Page) -> None:
    words = """async () => Object.entries((await import("/scripts/words.js")).WORDS)
        .filter(([key]) => key.startsWith("remark_")).map(([, [, english]]) => english)"""
    known = {re.sub(r"\{\w+\}", "{}", english) for english in page.evaluate(words)}
    files = [*(SOURCE / "apps").glob("*/*.py"), SOURCE / "serve" / "applications.py"]
    trees = {path: ast.parse(path.read_text("utf-8")) for path in files}
    assert known <= {text for tree in trees.values() for text in texts(tree)}
    said = {
        text
        for path, tree in trees.items()
        if path.parent.name in ("translate", "summarize")
        for node in ast.walk(tree)
        if says_remarks(node)
        for text in texts(node)
    }
    assert len(said) > 10
    assert {text for text in said if re.search(r"\w \w", text)} <= known


def test_a_poem_comes_in_its_form(page: Page) -> None:
    page.click("#tab-write")
    assert page.locator("#write-length").is_hidden()
    page.fill("#write-text", "秋夜")
    page.locator("#panel-write [type=submit]").click()
    lines = result_of(page, "write").split("\n")
    assert lines[0] == "《秋夜》"
    assert all(re.fullmatch(r"\w{5}，\w{5}。", line) for line in lines[1:])
    page.select_option("#write-form", "story")
    assert page.locator("#write-length").is_visible()
    page.select_option("#write-form", "rewrite")
    assert page.locator("#write-tone").is_visible()


def test_an_error_of_an_application_is_told_and_can_be_tried_again(page: Page) -> None:
    page.click("#tab-write")
    page.select_option("#write-form", "couplet")
    page.fill("#write-text", "hello")
    done = []
    page.on("response", lambda response: done.append(response.status))
    page.locator("#panel-write [type=submit]").click()
    note = page.locator("#panel-write .note")
    note.wait_for()
    assert "Chinese characters" in note.inner_text()
    page.fill("#write-text", "春风又绿江南岸")
    note.get_by_role("button", name="重试").click()
    assert len(result_of(page, "write").strip("。")) == 7


@pytest.mark.usefixtures("shop")
def test_a_customer_gets_an_answer_with_its_source_or_a_person(page: Page) -> None:
    page.reload()
    page.click("#tab-support")
    page.select_option("#support-base", "demo-shop")
    page.fill("#support-text", "怎么退货？")
    page.press("#support-text", "Enter")
    answer = page.locator(".panel-support .message.assistant").last
    answer.locator(".sources summary").click()
    quote = answer.locator("blockquote").inner_text()
    assert quote
    assert answer.get_attribute("data-action") == "answer"
    answer.get_by_label("没用").click()
    page.wait_for_selector("text=感谢反馈")

    page.fill("#support-text", "我要找人工")
    page.press("#support-text", "Enter")
    page.wait_for_selector(".panel-support [data-action=handover]")
    page.get_by_role("button", name="人工客服台").click()
    card = page.locator(".desk-card")
    assert "我要找人工" in card.inner_text()
    card.locator("textarea").fill("您好，我是**小王**。")
    card.get_by_role("button", name="发送").click()
    page.get_by_role("button", name="顾客", exact=True).click()
    said = page.locator("[data-action=agent]")
    said.wait_for()
    assert said.locator("strong").inner_text() == "小王"
    page.fill("#support-text", "我的订单还没到")
    page.press("#support-text", "Enter")
    page.get_by_role("button", name="人工客服台").click()
    card.get_by_text("客户：我的订单还没到").wait_for()
    card.get_by_role("button", name="结束，交还机器人").click()
    page.wait_for_selector("text=现在没有等待的会话。")


def test_without_a_knowledge_base_the_page_says_how_to_make_one(page: Page) -> None:
    page.route("**/v1/support/bases", lambda route: route.fulfill(json={"data": []}))
    page.reload()
    page.click("#tab-support")
    page.wait_for_selector("#panel-support >> text=chatglm support demo")
    assert page.locator("#support-text").is_hidden()
