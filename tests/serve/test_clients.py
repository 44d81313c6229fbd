"""Clients that people have: our own remote model, the comparison, LangChain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from tests.serve.conftest import Running

from chatglm import ChatGLM
from chatglm.cli import main
from chatglm.generation.remote import RemoteChatGLM
from chatglm.messages import Message

SAMPLE = (
    "import torch; from chatglm import ChatGLM; "
    'model = ChatGLM.from_pretrained("openai/ChatGPT"); '
    'output = model.generate("你好，我是一个程序员。"); print(output)'
)


@pytest.fixture
def environment(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own server as the remote service."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("CHATGLM_LANG", "en")
    monkeypatch.delenv("OPENAI_MODEL", raising=False)


@pytest.fixture
def remote(environment: None) -> RemoteChatGLM:
    model = ChatGLM.from_pretrained("openai/ChatGPT")
    assert isinstance(model, RemoteChatGLM)
    return model


def test_the_sample_runs_as_it_stands(environment: None) -> None:
    done = subprocess.run([sys.executable, "-c", SAMPLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_without_a_key_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"OPENAI_API_KEY is not set; .*from_pretrained\(\)"):
        ChatGLM.from_pretrained("openai/ChatGPT")


def test_a_remote_model_says_what_the_local_one_says(remote: RemoteChatGLM) -> None:
    local = ChatGLM.from_pretrained()
    assert isinstance(local, ChatGLM)
    options = {"temperature": 0.0, "max_new_tokens": 12}
    assert remote.name == "nano"
    assert remote.generate("你好", **options) == local.generate("你好", **options)  # type: ignore[misc]
    assert remote.complete("今天", **options) == local.complete("今天", **options)  # type: ignore[misc]
    texts = ["你好", "今天天气"]
    assert remote.generate_many(texts, **options) == local.generate_many(texts, **options)  # type: ignore[misc]
    talks = [[Message(role="user", content=text)] for text in texts]
    assert remote.chat_many(talks, **options) == local.chat_many(talks, **options)  # type: ignore[misc]
    vectors = remote.embed(texts)
    assert vectors[1] == pytest.approx(local.embed(texts)[1].tolist(), abs=1e-5)


def test_what_the_service_refuses_is_said_in_a_sentence(remote: RemoteChatGLM) -> None:
    with pytest.raises(ValueError, match="context of nano holds"):
        remote.generate("很长" * 3000)
    remote.name = "none"
    with pytest.raises(ValueError, match="there is no model 'none'"):
        remote.generate("你好")


def test_models_are_compared_side_by_side(
    environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", "你好", "--models", "nano,openai/nano,openai/none"]
    told = main([*command, "--temperature", "0", "--max-tokens", "8", "--json"])
    assert told == 1  # one of them is not there
    own, served, missing = json.loads(capsys.readouterr().out)["answers"]
    assert own["text"] == served["text"]
    assert own["completion_tokens"] == served["completion_tokens"] > 0
    assert served["seconds"] > 0
    assert "none" in missing["error"]
    assert main(["compare", "你好", "--models", "openai/nano", "--max-tokens", "4"]) == 0
    shown = capsys.readouterr().out
    assert "== openai/nano" in shown
    assert "tokens/s" in shown


def test_columns_keep_their_width_whatever_is_in_them() -> None:
    from chatglm.cli.compare import wrap
    from chatglm.cli.console import width

    text = "今天天气 very fine indeed，适合出门。\n" + "x" * 70
    lines = list(wrap(text, 11))
    assert all(width(line) <= 11 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_text_is_shown_as_tokens_and_back(
    server: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATGLM_LANG", "en")
    text = "你好，世界<|user|>"
    assert main(["tokenize", "--json", text]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "".join(told["pieces"]) == text
    assert told["tokens"] == server.post("/tokenize", {"prompt": text}).json()["tokens"]
    assert main(["tokenize", "--decode", *map(str, told["tokens"])]) == 0
    assert capsys.readouterr().out.rstrip("\n") == text
    assert main(["tokenize", "--decode", "99999999"]) == 2
    assert "ids from 0 to" in capsys.readouterr().err


def test_langchain_works_unchanged(server: Running) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    chat = langchain.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="nano", temperature=0, max_tokens=8
    )
    whole = chat.invoke("你好").content
    assert whole
    assert "".join(piece.content for piece in chat.stream("你好")) == whole
    vectors = langchain.OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="none", model="nano", check_embedding_ctx_length=False
    )
    assert len(vectors.embed_query("你好")) == 320


LITELLM = """
import asyncio, json, sys
import litellm

url, hello = sys.argv[1], [{"role": "user", "content": "你好"}]
given = {"model": "openai/nano", "api_base": url, "api_key": "none", "temperature": 0}
whole = litellm.completion(messages=hello, max_tokens=8, **given)
pieces = litellm.completion(
    messages=hello, max_tokens=8, stream=True, stream_options={"include_usage": True}, **given
)
chunks = list(pieces)
function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}},
            "required": ["a"], "additionalProperties": False}}
called = litellm.completion(
    messages=hello, tools=[{"type": "function", "function": function}],
    tool_choice="required", max_tokens=40, **given
).choices[0].message.tool_calls[0].function
schema = {"name": "s", "schema": {"enum": ["晴", "雨"]}}
shaped = litellm.completion(
    messages=hello, response_format={"type": "json_schema", "json_schema": schema}, **given
)
later = asyncio.run(litellm.acompletion(messages=hello, max_tokens=8, **given))
writer = {**given, "model": "text-completion-openai/nano"}
text = litellm.text_completion(prompt="今天", max_tokens=4, **writer)
vectors = litellm.embedding(model="openai/nano", input=["你好"], api_base=url, api_key="none")
try:
    litellm.completion(messages=[{"role": "user", "content": "很长" * 3000}], **given)
    refused = ""
except litellm.BadRequestError as error:
    refused = str(error)
print(json.dumps({
    "whole": whole.choices[0].message.content,
    "usage": whole.usage.total_tokens,
    "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
    "later": later.choices[0].message.content,
    "arguments": json.loads(called.arguments),
    "shaped": json.loads(shaped.choices[0].message.content),
    "text": text.choices[0].text,
    "width": len(vectors.data[0]["embedding"]),
    "refused": refused,
}))
"""


@pytest.mark.skipif(find_spec("litellm") is None, reason="needs litellm")
def test_litellm_works_unchanged(server: Running) -> None:
    command = [sys.executable, "-c", LITELLM, f"{server.url}/v1"]
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["whole"] == told["streamed"] == told["later"] != ""
    assert told["usage"] > 0
    assert told["arguments"] == {"a": 1}
    assert told["shaped"] in ("晴", "雨")
    assert told["text"]
    assert told["width"] == 320
    assert "context of nano holds" in told["refused"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--host", "0.0.0.0", "--api-key", ""], "empty"),
        (["--api-key-file", "/none"], "cannot be read"),
        (["--port", "99999"], "65535"),
        (["--max-num-seqs", "0"], "above 0"),
        (["--max-model-len", "1"], "at least 2"),
        (["--max-num-tokens", "0"], "above 0"),
        (["--max-num-tokens", "100"], "no room for one context of 1024"),
        (["--model", "openai/gpt"], "remote"),
        (["--model", "a=/none"], "none"),
    ],
)
def test_flags_that_do_not_go_together_are_told_in_one_line(
    flags: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHATGLM_LANG", "en")
    monkeypatch.delenv("CHATGLM_API_KEY", raising=False)
    assert main(["serve", *flags]) in (1, 2, 3)
    shown = capsys.readouterr()
    assert said in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.out == ""
