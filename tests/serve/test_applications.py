"""The applications over HTTP: what the library gives, and how far it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.serve import wire
from tests.serve.conftest import Running

NEWS = (
    "北京市气象台今天发布大风蓝色预警。预计今天夜间到明天白天，全市大部分地区将有四级左右偏北风。"
    "气象部门提醒市民注意防风，减少户外活动。交通部门也加强了巡查。"
)


@pytest.fixture(scope="module")
def shop(
    launch: Callable[..., Running], tmp_path_factory: pytest.TempPathFactory, toy: Path
) -> Iterator[Running]:
    """A server in a home of its own, with the two example bases."""
    patch = pytest.MonkeyPatch()
    patch.setenv("CHATGLM_HOME", str(tmp_path_factory.mktemp("home")))
    from chatglm.apps.support.demo import prepare

    prepare()
    yield launch("--model", f"toy={toy}")
    patch.undo()


def test_a_summary_is_the_librarys(shop: Running) -> None:
    from chatglm.apps.summarize import Summarizer

    own = Summarizer(mode="extractive").summarize(NEWS)
    told = shop.post("/v1/summarize", {"text": NEWS, "mode": "extractive"}).json()
    assert told["text"] == own.text
    both = shop.post("/v1/summarize", {"texts": [NEWS, NEWS], "mode": "extractive"}).json()
    assert [one["text"] for one in both["data"]] == [own.text, own.text]


def test_progress_is_streamed_before_the_result(shop: Running) -> None:
    body = {"text": f"# 标题\n\n{NEWS}\n\n{NEWS}", "format": "markdown", "stream": True}

    async def read() -> list[dict[str, object]]:
        return [event async for event in wire.events(shop.port, "/v1/translate", body)]

    *progress, result = wire.run(read())  # type: ignore[misc]
    assert [p["object"] for p in progress] == ["progress"] * len(progress)
    assert progress[-1]["done"] == progress[-1]["total"]
    assert result["object"] == "translation"
    assert result["text"].startswith("# ")


def test_a_verse_has_its_form_whatever_the_model(shop: Running) -> None:
    from chatglm.apps.write import Writer

    told = shop.post("/v1/write", {"form": "jueju5", "topic": "春雨", "seed": 1}).json()
    assert Writer().faults("jueju5", "春雨", told["text"]) == []
    names = {form["name"] for form in shop.get("/v1/write/forms").json()["data"]}
    assert {"jueju5", "story", "email"} <= names


def test_wrong_requests_are_told_in_the_usual_shape(shop: Running) -> None:
    for path, body, status in (
        ("/v1/summarize", {}, 400),
        ("/v1/summarize", {"text": "a", "texts": ["b"]}, 400),
        ("/v1/translate", {"text": "a", "target": "xx"}, 400),
        ("/v1/write", {"form": "nonsense", "topic": "a"}, 400),
        ("/v1/support", {"question": "a", "base": "../kb"}, 404),
        ("/v1/support", {"question": " "}, 400),
        ("/v1/fill", {"text": "no blank"}, 400),
    ):
        answer = shop.post(path, body)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_customer_is_answered_with_the_source_or_handed_over(shop: Running) -> None:
    assert [b["id"] for b in shop.get("/v1/support/bases").json()["data"]] == [
        "demo-bank",
        "demo-shop",
    ]
    reply = shop.post("/v1/support", {"base": "demo-shop", "question": "怎么退货？"}).json()
    assert reply["action"] == "answer"
    assert reply["citations"][0]["quote"] in reply["text"]
    session = reply["session"]
    marked = {"base": "demo-shop", "turn": reply["turn"], "good": True}
    assert shop.post("/v1/support/feedback", marked).json()["value"] == 1
    asked = {"base": "demo-shop", "question": "转人工", "session": session}
    number = shop.post("/v1/support", asked).json()["handover"]
    waiting = shop.get("/v1/support/handovers?base=demo-shop").json()["data"]
    assert [one["id"] for one in waiting] == [number]
    done = {"base": "demo-shop", "text": "您好，我是小王。", "agent": "小王", "close": True}
    path = f"/v1/support/handovers/{number}"
    assert shop.post(path, done).json()["state"] == "closed"
    turns = shop.get(f"/v1/support/turns?base=demo-shop&session={session}").json()["data"]
    assert [turn["role"] for turn in turns] == ["user", "bot", "user", "bot", "agent"]


def test_an_application_stops_with_its_client(shop: Running) -> None:
    body = {"text": (NEWS + "\n\n") * 200, "stream": True}

    async def leave() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.port)
        data = json.dumps(body).encode()
        writer.write(wire.head("POST", "/v1/translate", len(data)) + data)
        await reader.readuntil(b"progress")
        writer.close()

    wire.run(leave())
    shop.wait_for(lambda: shop.number("num_requests_running") == 0)
    shop.wait_for(lambda: shop.number("num_requests_waiting") == 0)
