"""The remote twin against a small service of OpenAI's protocol on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chatglm import ChatGLM
from chatglm.generation.remote import RemoteChatGLM

pytest.importorskip("openai", reason="needs the extra `remote`")
asked: list[dict[str, object]] = []


class Service(BaseHTTPRequestHandler):
    """Lists two models and answers every conversation with 你好 in two pieces."""

    def do_GET(self) -> None:
        models = [("tts-9", 9), ("gpt-8-chat-latest", 8), ("gpt-7-chat-latest", 7)]
        listed = [{"id": i, "object": "model", "created": n, "owned_by": "x"} for i, n in models]
        self.answer(json.dumps({"object": "list", "data": listed}), "application/json")

    def do_POST(self) -> None:
        asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        base = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        deltas = [({"content": "你"}, None), ({"content": "好"}, None), ({}, "stop")]
        chunks = [
            {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            for delta, finish in deltas
        ]
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        chunks.append({**base, "choices": [], "usage": usage})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        self.answer("".join([*lines, "data: [DONE]\n\n"]), "text/event-stream")

    def answer(self, body: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteChatGLM]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    model = ChatGLM.from_pretrained("openai/ChatGPT")
    assert isinstance(model, RemoteChatGLM)
    yield model
    model.client.close()
    server.shutdown()
    server.server_close()


def test_chatgpt_is_the_newest_chat_model_of_the_service(remote: RemoteChatGLM) -> None:
    assert remote.name == "gpt-8-chat-latest"


def test_a_remote_model_is_asked_like_a_local_one(remote: RemoteChatGLM) -> None:
    assert remote.generate("问", system="系统", max_new_tokens=9, temperature=0) == "你好"
    request = asked[-1]
    assert request["max_completion_tokens"] == 9
    assert request["messages"] == [
        {"role": "system", "content": "系统"},
        {"role": "user", "content": "问"},
    ]
    stream = remote.stream("问")
    assert list(stream) == ["你", "好"]
    assert (stream.num_prompt, stream.num_new, stream.finish) == (5, 2, "stop")
    assert remote.chat("问", [("早", "安")]) == ("你好", [("早", "安"), ("问", "你好")])


def test_a_setting_that_the_protocol_lacks_is_refused(remote: RemoteChatGLM) -> None:
    with pytest.raises(ValueError, match="top_k is not part of OpenAI's protocol"):
        remote.generate("问", top_k=5)
