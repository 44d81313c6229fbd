"""Languages, colours, phones, keyboards and screen readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.serve.page.browser import Reader, ask, finished, reply_with

if TYPE_CHECKING:
    from playwright.sync_api import Page

CONTRAST = """() => {
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const poor = [];
    for (const node of document.querySelectorAll("body *")) {
        const says = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
        const seen = { visibilityProperty: true, opacityProperty: true };
        if (!says || !node.checkVisibility(seen)) continue;
        if (node.closest(".visually-hidden, .skip, [disabled]")) continue;
        const [a, b] = [parse(getComputedStyle(node).color), ground(node)].map(light);
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push([node.outerHTML.slice(0, 80), ratio]);
    }
    return poor;
}"""
UNNAMED = """() => [...document.querySelectorAll("button, input, select, textarea, a, [role=tab]")]
    .filter((node) => node.checkVisibility())
    .filter((node) => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
    .map((node) => node.outerHTML.slice(0, 90))"""
SAMPLE = (
    "# 题\n\n见 [链接](https://example.com) 与 `代码`\n\n```python\nx = f('a')  # b\n```\n\n> 引"
)


def theme_of(page: Page) -> str:
    """`light` or `dark`, by what is seen."""
    color = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    return "light" if color == "rgb(255, 255, 255)" else "dark"


def test_the_language_is_the_browsers_until_another_is_chosen(
    reader: Callable[..., Reader],
) -> None:
    page = reader(locale="en-GB").open()
    assert page.locator("#tab-fill").inner_text() == "Fill in"
    assert page.locator("html").get_attribute("lang") == "en"
    page.fill("#composer", "a draft")
    page.click("#language")
    assert page.locator("#tab-fill").inner_text() == "填空"
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    assert page.locator("#composer").input_value() == "a draft"
    assert page.locator("#composer").get_attribute("placeholder") == "输入消息"
    page.reload()
    assert page.locator("#tab-fill").inner_text() == "填空"


def test_every_word_is_there_in_both_languages(page: Page) -> None:
    ask(page, "你好")
    finished(page)
    keys = """async () => {
        const { WORDS } = await import("/scripts/words.js");
        const used = [...document.querySelectorAll("[data-t], [data-label], [data-hint]")]
            .flatMap((n) => [n.dataset.t, n.dataset.label, n.dataset.hint]).filter(Boolean);
        const whole = (pair) => pair.length === 2 && pair.every(Boolean);
        const bad = Object.entries(WORDS).filter(([, pair]) => !whole(pair));
        return [used.filter((key) => !(key in WORDS)), bad];
    }"""
    assert page.evaluate(keys) == [[], []]


def test_the_theme_is_the_systems_until_another_is_chosen(reader: Callable[..., Reader]) -> None:
    page = reader(color_scheme="dark").open()
    assert theme_of(page) == "dark"
    page.emulate_media(color_scheme="light")
    assert theme_of(page) == "light"
    page.click("#theme")
    page.click("#theme")
    assert theme_of(page) == "dark"
    page.reload()
    assert theme_of(page) == "dark"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_every_control_has_a_name(
    reader: Callable[..., Reader], scheme: str
) -> None:
    page = reader(color_scheme=scheme).open()
    reply_with(page, SAMPLE, reasoning="想")
    ask(page, "问")
    finished(page)
    for open_it in ("#tab-fill", "#tab-chat", "#settings"):
        page.click(open_it)
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate(UNNAMED) == []


def test_on_a_phone_nothing_is_cut_off(reader: Callable[..., Reader]) -> None:
    size = {"width": 360, "height": 640}
    page = reader(viewport=size, is_mobile=True, has_touch=True).open()
    wide = "| " + " | ".join("很宽的表格" for _ in range(9)) + " |\n|" + "-|" * 9 + "\n\n"
    reply_with(page, f"{wide}```\n{'x' * 300}\n```\n\n{'长' * 90}{'w' * 200}")
    page.tap("#composer")
    page.keyboard.type("第一行")
    page.keyboard.press("Enter")  # on a phone: a new line
    page.keyboard.type("第二行")
    page.tap("#send")
    finished(page)
    assert page.locator(".bubble").inner_text() == "第一行\n第二行"
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("() => document.querySelector('.scroller').scrollWidth <= innerWidth")
    assert page.locator("#sidebar").is_hidden()
    page.tap("#menu")
    page.wait_for_selector("#sidebar", state="visible")
    page.tap("#conversations a")
    page.wait_for_selector("#sidebar", state="hidden")
    page.tap("#tab-fill")
    assert page.evaluate(
        "() => document.querySelector('.panel-fill .work').scrollWidth <= innerWidth"
    )


def test_enter_that_chooses_characters_does_not_send(page: Page) -> None:
    page.focus("#composer")
    keyboard = page.context.new_cdp_session(page)
    chosen = {"selectionStart": 2, "selectionEnd": 2}
    keyboard.send("Input.imeSetComposition", {"text": "ni", **chosen})
    enter = {"key": "Process", "code": "Enter", "windowsVirtualKeyCode": 229}
    keyboard.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **enter})
    keyboard.send("Input.insertText", {"text": "你好"})
    keyboard.send("Input.dispatchKeyEvent", {"type": "keyUp", **enter})
    assert page.locator("#composer").input_value() == "你好"
    assert page.locator(".message").count() == 0
    ask(page, "你好")
    finished(page)


@pytest.mark.parametrize(
    "late", [False, True], ids=["while it is open", "just after, as in Safari"]
)
def test_enter_at_the_end_of_a_composition_does_not_send(page: Page, late: bool) -> None:
    page.fill("#composer", "ni")
    page.evaluate(
        """late => {
            const field = document.querySelector("#composer");
            const fire = (Kind, name, more = {}) =>
                field.dispatchEvent(new Kind(name, { bubbles: true, cancelable: true, ...more }));
            const enter = { key: "Enter", keyCode: late ? 229 : 13, isComposing: !late };
            fire(CompositionEvent, "compositionstart");
            if (late) fire(CompositionEvent, "compositionend", { data: "你" });
            fire(KeyboardEvent, "keydown", enter);
            if (!late) fire(CompositionEvent, "compositionend", { data: "你" });
        }""",
        late,
    )
    assert page.locator("#composer").input_value() == "ni"
    assert page.locator(".message").count() == 0
    page.press("#composer", "Shift+Enter")
    assert page.locator("#composer").input_value() == "ni\n"
    page.press("#composer", "Enter")
    finished(page)


def test_the_keyboard_reaches_everything(page: Page) -> None:
    reply_with(page, "好的。")
    assert page.evaluate("() => document.activeElement.id") == "composer"
    page.keyboard.type("你好")
    page.keyboard.press("Enter")
    finished(page)
    assert page.evaluate("() => document.activeElement.id") == "composer"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "重试"
    outline = "() => getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.focus("#tab-chat")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tab-fill[aria-selected=true]")
    assert page.locator("#panel-fill").is_visible()
    page.keyboard.press("Home")
    page.wait_for_selector("#panel-chat", state="visible")
    page.focus("#settings")
    page.keyboard.press("Enter")
    page.wait_for_selector("#drawer[open]")
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.id") == "settings"
    page.focus("#conversations .more")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("() => document.activeElement.textContent") == "导出 Markdown"
    page.keyboard.press("Escape")
    assert page.locator(".menu").count() == 0
    assert page.evaluate("() => document.activeElement.className") == "icon-button more"


def test_a_screen_reader_hears_the_answer_by_sentences(page: Page) -> None:
    reply_with(page, "第一", "句。第二句，", "还没", "完。第三句")
    heard = """() => { window.heard = []; new MutationObserver((all) => all.forEach((m) =>
        m.addedNodes.forEach((n) => window.heard.push(n.textContent))))
        .observe(document.getElementById("announcer"), { childList: true }); }"""
    page.evaluate(heard)
    assert page.locator("#announcer").get_attribute("aria-live") == "polite"
    ask(page, "你好")
    reply = finished(page)
    assert page.evaluate("() => window.heard") == ["第一句。", "第二句，还没完。", "第三句"]
    assert page.locator("#log").get_attribute("role") == "log"
    assert reply.get_attribute("aria-label") == "nano"
    assert reply.get_attribute("aria-busy") == "false"


def test_a_new_reader_may_begin_with_a_suggestion(page: Page) -> None:
    assert page.locator("#panel-chat .welcome").is_visible()
    page.locator(".suggestion").first.click()
    finished(page)
    assert page.locator("#panel-chat .welcome").is_hidden()
    assert page.title() == "ChatGLM"
