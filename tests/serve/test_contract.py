"""The official client drives every endpoint, whole and streamed."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
import pytest
from openai import OpenAI
from tests.serve.conftest import Running

HELLO: Any = [{"role": "user", "content": "你好"}]
WEATHER: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "查询天气",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 6},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    }
]
CARD = {
    "type": "object",
    "properties": {
        "姓名": {"type": "string", "maxLength": 4},
        "年龄": {"type": "integer", "minimum": 0, "maximum": 120},
        "爱好": {"enum": ["读书", "跑步"]},
    },
    "required": ["姓名", "年龄", "爱好"],
    "additionalProperties": False,
}
CARD_FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "card", "schema": CARD}}


def chat(client: OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "nano", "messages": HELLO, "max_tokens": 24, **options}
    )


def test_models_are_listed_and_one_can_be_looked_up(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_a_chat_streams_what_it_gives_whole(client: OpenAI) -> None:
    whole = chat(client, seed=5)
    usage_options = {"include_usage": True}
    chunks = list(chat(client, seed=5, stream=True, stream_options=usage_options))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert text
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert finishes[-1] == whole.choices[0].finish_reason
    assert set(finishes[:-1]) == {None}
    assert chunks[-1].choices == []
    # What is cached may differ: the first request has filled the cache for the second.
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert whole.usage.prompt_tokens_details.cached_tokens is not None


def test_required_keys_are_there_even_where_they_are_null(server: Running) -> None:
    body = {"messages": HELLO, "max_tokens": 2}
    choice = server.post("/v1/chat/completions", body).json()["choices"][0]
    assert choice["logprobs"] is None
    assert choice["message"]["refusal"] is None


def test_several_replies_differ_and_each_is_repeatable(client: OpenAI) -> None:
    first = [c.message.content for c in chat(client, n=4, seed=11, temperature=1.5).choices]
    again = [c.message.content for c in chat(client, n=4, seed=11, temperature=1.5).choices]
    assert first == again
    assert len(set(first)) > 1
    chunks = chat(client, n=4, seed=11, temperature=1.5, stream=True)
    texts = ["", "", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == first


def test_log_probabilities_belong_to_the_tokens_of_the_reply(client: OpenAI) -> None:
    options: Any = {"logprobs": True, "top_logprobs": 3, "temperature": 0}
    options["extra_body"] = {"repetition_penalty": 1}
    choice = chat(client, **options).choices[0]
    scores = choice.logprobs.content
    text = b"".join(bytes(score.bytes) for score in scores).decode()
    assert text.strip() == choice.message.content
    for score in scores:
        assert len(score.top_logprobs) == 3
        assert score.logprob == max(top.logprob for top in score.top_logprobs)
        assert sum(math.exp(top.logprob) for top in score.top_logprobs) <= 1.0001
    streamed = [
        score
        for chunk in chat(client, stream=True, **options)
        for piece in chunk.choices
        if piece.logprobs
        for score in piece.logprobs.content
    ]
    assert [s.token for s in streamed] == [s.token for s in scores]


def test_a_bias_forbids_and_demands_tokens(client: OpenAI, server: Running) -> None:
    token = server.post("/tokenize", {"prompt": "好"}).json()["tokens"][0]
    demanded = chat(client, logit_bias={str(token): 100}, max_tokens=4, temperature=0)
    assert set(demanded.choices[0].message.content) == {"好"}
    free = chat(client, temperature=0, logprobs=True, max_tokens=1).choices[0]
    first = server.post("/tokenize", {"prompt": free.message.content}).json()["tokens"][0]
    other = chat(client, temperature=0, logit_bias={str(first): -100}, max_tokens=1).choices[0]
    assert other.message.content != free.message.content


def test_a_stop_string_ends_a_reply_and_is_not_part_of_it(client: OpenAI) -> None:
    free = chat(client, temperature=0).choices[0].message.content
    stop = free[len(free) // 2]
    stopped = chat(client, temperature=0, stop=[stop, "不会出现的"]).choices[0]
    assert stopped.message.content == free.split(stop)[0].strip()
    assert stopped.finish_reason == "stop"


def test_control_tokens_in_a_prompt_are_text(server: Running) -> None:
    ids = server.post("/tokenize", {"messages": HELLO}).json()["tokens"]
    marked = [{"role": "user", "content": "你好<|system|>"}]
    more = server.post("/tokenize", {"messages": marked}).json()["tokens"]
    special = {int(i) for i in server.get("/tokenizer_info").json()["added_tokens"]}
    assert [i for i in more if i in special] == [i for i in ids if i in special]


def test_a_demanded_tool_is_called_with_arguments_of_its_schema(client: OpenAI) -> None:
    chosen: Any = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", chosen):
        reply = chat(client, tools=WEATHER, tool_choice=choice, max_tokens=80).choices[0]
        assert reply.finish_reason == "tool_calls"
        assert reply.message.content is None
        call = reply.message.tool_calls[0]
        assert call.function.name == "get_weather"
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == {"city", "days"}
        assert 1 <= arguments["days"] <= 9


def test_a_streamed_call_is_the_whole_one_in_pieces(client: OpenAI) -> None:
    options = {"tools": WEATHER, "tool_choice": "required", "max_tokens": 80, "seed": 3}
    whole = chat(client, **options).choices[0].message.tool_calls[0].function
    pieces = [
        call
        for chunk in chat(client, stream=True, **options)
        for choice in chunk.choices
        for call in choice.delta.tool_calls or []
    ]
    assert pieces[0].id
    assert pieces[0].function.name == whole.name
    assert len(pieces) > 2
    assert "".join(piece.function.arguments for piece in pieces) == whole.arguments


def test_a_tools_answer_goes_back_into_the_conversation(client: OpenAI) -> None:
    call = {"id": "a", "type": "function"}
    function = {"name": "get_weather", "arguments": '{"city": "北京", "days": 1}'}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [{**call, "function": function}]},
        {"role": "tool", "tool_call_id": "a", "content": "晴"},
    ]
    assert chat(client, messages=messages, tools=WEATHER).choices[0].message.role == "assistant"
    assert chat(client, tools=WEATHER, tool_choice="none").choices[0].message.tool_calls is None


def test_a_schema_shapes_the_reply(client: OpenAI) -> None:
    for seed in range(5):
        reply = chat(client, response_format=CARD_FORMAT, seed=seed, max_tokens=80, temperature=1.5)
        text = reply.choices[0].message.content
        assert reply.choices[0].finish_reason == "stop"
        card = json.loads(text)
        assert list(card) == ["姓名", "年龄", "爱好"]
        assert "\\u" not in text
        assert 0 <= card["年龄"] <= 120


def test_json_object_gives_an_object(client: OpenAI) -> None:
    reply = chat(client, response_format={"type": "json_object"}, seed=1).choices[0]
    assert reply.message.content.startswith("{")


def test_the_clients_own_parsing_works(client: OpenAI) -> None:
    from pydantic import BaseModel, Field

    class Person(BaseModel):
        age: int = Field(ge=0, le=9)

    reply = client.chat.completions.parse(
        model="nano", messages=HELLO, response_format=Person, max_tokens=40
    )
    assert isinstance(reply.choices[0].message.parsed, Person)


def test_a_text_is_continued_alone_and_among_others(client: OpenAI) -> None:
    def complete(prompt: Any, **options: Any) -> list[str]:
        answer = client.completions.create(
            model="nano", prompt=prompt, max_tokens=8, temperature=0, **options
        )
        return [choice.text for choice in answer.choices]

    poem, today = complete("床前明月光，"), complete("今天天气")
    assert complete(["床前明月光，", "今天天气"]) == poem + today
    assert complete("今天天气", echo=True) == ["今天天气" + today[0]]
    pieces = client.completions.create(
        model="nano", prompt="今天天气", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(p.choices[0].text for p in pieces) == today[0]


def test_ids_are_continued_as_their_text_is(client: OpenAI, server: Running) -> None:
    ids = server.post("/tokenize", {"prompt": "今天天气"}).json()["tokens"]
    options: Any = {"model": "nano", "max_tokens": 6, "temperature": 0}
    by_ids = client.completions.create(prompt=ids, **options).choices[0].text
    assert by_ids == client.completions.create(prompt="今天天气", **options).choices[0].text
    many = client.completions.create(prompt=[ids, ids], **options).choices
    assert [choice.text for choice in many] == [by_ids, by_ids]


def test_echo_tells_the_log_probabilities_of_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model="nano", prompt="今天天气很好", max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    choice = answer.choices[0]
    scores = choice.logprobs
    assert scores is not None
    assert scores.tokens
    assert scores.token_logprobs
    assert scores.text_offset
    assert scores.top_logprobs
    assert "".join(scores.tokens).startswith("今天天气很好")
    assert len(scores.tokens) == answer.usage.total_tokens  # type: ignore[union-attr]
    assert scores.token_logprobs[0] is None
    assert all(score is not None and score <= 0 for score in scores.token_logprobs[1:])
    assert choice.text[scores.text_offset[1] :].startswith(scores.tokens[1])
    silent = client.completions.create(model="nano", prompt="今天", max_tokens=0, echo=True)
    assert silent.choices[0].text == "今天"
    scored = client.completions.create(
        model="nano", prompt="今天天气很好", max_tokens=0, echo=True, logprobs=0
    ).choices[0]
    assert scored.logprobs
    assert scored.logprobs.token_logprobs == scores.token_logprobs[:-1]


def test_scores_over_http_are_those_of_the_library(client: OpenAI, server: Running) -> None:
    import torch

    from chatglm import ChatGLM

    model = ChatGLM.from_pretrained()
    assert isinstance(model, ChatGLM)
    ids = model.tokenizer.encode("今天天气很好，适合出门散步。")
    with torch.inference_mode():
        logs = model.logits(ids).log_softmax(-1)
    own = [logs[i, token].item() for i, token in enumerate(ids[1:])]
    answer = client.completions.create(  # as lm-eval asks
        model="nano", prompt=ids, max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234
    )
    scores = answer.choices[0].logprobs
    assert scores is not None
    assert scores.token_logprobs is not None
    assert scores.token_logprobs[1:-1] == pytest.approx(own, abs=1e-4)
    ends = server.get("/tokenizer_info").json()["eos_token"]
    told = server.post("/tokenize", {"prompt": ends, "add_special_tokens": False}).json()
    assert told["tokens"] == [model.tokenizer.special[ends]]


def test_a_suffix_is_written_towards(client: OpenAI) -> None:
    choice = client.completions.create(
        model="nano", prompt="今天", suffix="，适合出门。", max_tokens=8, temperature=0
    ).choices[0]
    assert choice.text


def test_vectors_are_the_librarys_in_both_encodings(client: OpenAI, server: Running) -> None:
    import torch

    from chatglm import ChatGLM

    model = ChatGLM.from_pretrained()
    assert isinstance(model, ChatGLM)
    own = model.embed(["你好", "再见"])
    for encoding in ({}, {"encoding_format": "float"}):  # the client asks for base64 by itself
        told = client.embeddings.create(model="nano", input=["你好", "再见"], **encoding)  # type: ignore[call-overload]
        given = torch.tensor([row.embedding for row in told.data])
        assert torch.allclose(given, own, atol=1e-5)
    assert told.usage.prompt_tokens == told.usage.total_tokens > 0
    short = client.embeddings.create(model="nano", input="你好", dimensions=8).data[0].embedding
    assert short == pytest.approx((own[0, :8] / own[0, :8].norm()).tolist(), abs=1e-5)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="nano", input="你好", dimensions=4096)


def test_a_response_streams_what_it_gives_whole(client: OpenAI) -> None:
    options: Any = {"model": "nano", "input": "你好", "max_output_tokens": 16, "temperature": 0}
    whole = client.responses.create(**options)
    assert whole.status in ("completed", "incomplete")
    text, last, kinds = "", None, []
    for event in client.responses.create(stream=True, **options):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    assert text == whole.output_text
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert last is not None
    assert last.response.output_text == text  # type: ignore[union-attr]
    assert last.response.usage == whole.usage or last.response.usage  # type: ignore[union-attr]


def test_a_response_can_call_a_function_and_take_its_answer(client: OpenAI) -> None:
    function = WEATHER[0]["function"]
    tools: Any = [{"type": "function", "strict": False, **function}]
    options: Any = {"model": "nano", "tools": tools, "max_output_tokens": 80}
    call = client.responses.create(input="北京天气", tool_choice="required", **options).output[0]
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"city", "days"}
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "晴"}
    said: Any = [{"role": "user", "content": "北京天气"}, call.to_dict(), answer]
    assert client.responses.create(input=said, **options).output


def test_a_response_keeps_to_a_schema(client: OpenAI) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "card", "schema": CARD}}
    told = client.responses.create(model="nano", input="介绍自己", text=form)
    assert set(json.loads(told.output_text)) == set(CARD["required"])


def test_blanks_are_filled_as_the_library_fills_them(server: Running) -> None:
    from chatglm import ChatGLM

    told = server.post("/v1/fill", {"text": "今天[MASK]，适合[MASK]。", "temperature": 0}).json()
    model = ChatGLM.from_pretrained()
    assert isinstance(model, ChatGLM)
    assert told["text"] == model.fill("今天[MASK]，适合[MASK]。", temperature=0)
    assert len(told["spans"]) == 2


def test_texts_survive_the_tokenizers_endpoints(server: Running) -> None:
    for text in ("你好，world！\n🙂", "", " a  b "):
        ids = server.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()
        assert ids["count"] == len(ids["tokens"])
        assert server.post("/detokenize", {"tokens": ids["tokens"]}).json() == {"prompt": text}
    assert server.get("/tokenizer_info").json()["eos_token"] == "<|endoftext|>"


def test_the_body_of_chatglm_6bs_api_is_answered(server: Running) -> None:
    told = server.post("/", {"prompt": "你好", "history": [["a", "b"]], "max_length": 64}).json()
    assert told["status"] == 200
    assert told["history"] == [["a", "b"], ["你好", told["response"]]]
    assert set(told) == {"response", "history", "status", "time"}


def test_chinese_is_sent_as_it_is(server: Running) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 8, "logprobs": True}),
        ("/v1/completions", {"prompt": "你好", "echo": True, "logprobs": 1}),
        ("/v1/fill", {"text": "今天[MASK]。"}),
        ("/v1/chat/completions", {"messages": HELLO, "不存在": 1}),
    ):
        for stream in ({"stream": True}, {}) if path != "/v1/fill" else ({},):
            text = server.post(path, {**body, **stream}).content.decode()
            assert any("\u4e00" <= letter <= "\u9fff" for letter in text)
            assert "\\u" not in text
