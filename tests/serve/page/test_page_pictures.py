"""The documentation's pictures: `pytest -m whole tests/serve/page/test_page_pictures.py`.

What the model says in them is what the embedded model says. The text that shows formulas and code
is ours: it is a stored answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.serve.page.browser import Reader, Server, ask, finished, reply_with, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = Path(__file__).resolve().parents[3] / "docs"
MOST_BYTES = 150_000
DESKTOP = {"width": 1180, "height": 740}
PHONE = {"width": 390, "height": 780}
QUESTION = "一元二次方程怎么解？"
ANSWER = r"""设 $a \neq 0$，方程 $ax^2+bx+c=0$ 的解是

$$x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}$$

**判别式** $\Delta=b^2-4ac$ 决定解的个数：

| 判别式 | 实数解 |
|:--|:--|
| $\Delta>0$ | 两个 |
| $\Delta=0$ | 一个 |

```python
def solve(a: float, b: float, c: float) -> tuple[complex, complex]:
    root = cmath.sqrt(b * b - 4 * a * c)  # 可能是虚数
    return (-b + root) / (2 * a), (-b - root) / (2 * a)
```
"""

pytestmark = pytest.mark.whole


@pytest.fixture(autouse=True)
def shop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example bases, where the server looks for them."""
    from chatglm.apps.support.demo import prepare

    monkeypatch.setenv("CHATGLM_HOME", str(server.home))
    prepare()


def take(page: Page, name: str) -> None:
    """A picture that a README can hold."""
    page.wait_for_timeout(500)
    path = DOCS / f"page-{name}.png"
    page.screenshot(path=path, animations="disabled", caret="hide")
    assert path.stat().st_size < MOST_BYTES


def choose(page: Page, temperature: float) -> None:
    """Settings under which the model says the same each time."""
    page.click("#settings")
    page.fill("#set-temperature", f"{temperature:g}")
    page.fill("#set-seed", "1")
    page.fill("#set-max_tokens", "64")
    page.keyboard.press("Escape")


def talk(page: Page) -> None:
    """Two short conversations with the model."""
    choose(page, 0)
    for text in ("你好，我是一个程序员。", "请写一首关于春天的五言绝句。"):
        page.evaluate("() => { location.hash = '#/chat'; }")
        page.wait_for_selector("#panel-chat .welcome", state="visible")
        page.fill("#composer", text)
        page.click("#send")
        finished(page)


def test_a_conversation(reader: Callable[..., Reader]) -> None:
    page = reader(viewport=DESKTOP).open()
    talk(page)
    take(page, "chat")


def test_a_phone(reader: Callable[..., Reader]) -> None:
    options = {"is_mobile": True, "has_touch": True, "device_scale_factor": 1.5}
    page = reader(viewport=PHONE, color_scheme="dark", **options).open()
    talk(page)
    take(page, "phone")


def test_formulas_and_code(reader: Callable[..., Reader]) -> None:
    page = reader(viewport={**DESKTOP, "height": 860}, color_scheme="dark").open()
    reply_with(page, ANSWER, reasoning="先写求根公式，再讨论判别式。")
    ask(page, QUESTION)
    finished(page)
    page.wait_for_selector("math")
    take(page, "formulas")


def test_customer_service(reader: Callable[..., Reader]) -> None:
    page = reader(viewport=DESKTOP).open()
    page.click("#tab-support")
    page.select_option("#support-base", "demo-shop")
    for i, question in enumerate(("怎么退货？", "那运费谁出？", "我要找人工"), 1):
        page.fill("#support-text", question)
        page.press("#support-text", "Enter")
        until(page, f"document.querySelectorAll('.talk [aria-busy=false]').length === {i}")
    page.locator(".sources summary").first.click()
    take(page, "support")


def test_blanks(reader: Callable[..., Reader]) -> None:
    page = reader(viewport={**DESKTOP, "height": 620}, locale="en-GB").open()
    choose(page, 0.8)
    page.click("#tab-fill")
    page.fill("#fill-text", "春天来了，[sMASK]孩子们在草地上[MASK]，[MASK]也开了。")
    page.locator("#panel-fill [type=submit]").click()
    until(page, "document.querySelectorAll('#fill-result .filled').length === 3")
    take(page, "fill")
