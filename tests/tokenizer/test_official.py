"""Ids, texts and chats of the official tokenizers, for the published vocabulary files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatglm.messages import Message
from chatglm.tokenizer import load_tokenizer

FOLDERS = ["chatglm-6b", "chatglm2-6b", "chatglm3-6b", "glm-4-9b-chat", "glm-10b-chinese"]
MORE = {"v1": "chatglm-6b", "v2": "chatglm2-6b", "v3": "chatglm3-6b", "glm4": "glm-4-9b-chat"}
# transformers' clean-up of English blanks before marks, which decoding here leaves alone.
CLEANED = "hello world. how are you ?"
# A second spelling of GLM-4's system text, from an older file of the hub.
OLDER_SYSTEM = 4


def cases(folder: Path) -> dict[str, list[dict]]:
    return json.loads((folder / "cases.json").read_text("utf-8"))


def messages_of(case: dict) -> list[Message]:
    if "messages" in case:
        return [Message.from_dict(m) for m in case["messages"]]
    turns = []
    for turn in case["history"]:
        if isinstance(turn, dict):
            turns.append(Message.from_dict(turn))
        else:
            turns.append(Message(role="user", content=turn[0]))
            turns.append(Message(role="assistant", content=turn[1]))
    last = {"role": case.get("role", "user"), "content": case["query"]}
    return [*turns, Message.from_dict(last)]


@pytest.mark.parametrize("name", FOLDERS)
def test_texts_have_the_official_ids_and_come_back(shared: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers" / name)
    for case in cases(shared / "tokenizers" / name)["texts"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]


@pytest.mark.parametrize("name", FOLDERS)
def test_conversations_have_the_official_ids(shared: Path, name: str) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers" / name)
    for index, case in enumerate(cases(shared / "tokenizers" / name)["chats"]):
        if name == "glm-4-9b-chat" and index == OLDER_SYSTEM:
            continue
        assert tokenizer.template.render(messages_of(case)).tokens == case["input_ids"]


@pytest.mark.parametrize("key", MORE)
def test_further_texts_and_streams_are_official(shared: Path, key: str) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers" / MORE[key])
    data = cases(shared / "tokenizers/more" / key)
    names = [name for name in tokenizer.special if len(name) > 1]
    for case in data["cases"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        if not case["text"].startswith(CLEANED):
            assert tokenizer.decode(case["ids"]) == case["decoded"]
        if not any(name in case["text"] for name in names):
            assert tokenizer.wrap(case["ids"]) == case["call_ids"]
    stream = data["stream"]
    for case in stream if isinstance(stream, list) else [stream]:
        shown = [tokenizer.decode(case["ids"][: i + 1]) for i in range(len(case["ids"]))]
        assert shown == case["prefix_decodes"]


@pytest.mark.parametrize("key", MORE)
def test_further_conversations_are_official(shared: Path, key: str) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers" / MORE[key])
    for case in cases(shared / "tokenizers/more" / key)["chat"]:
        if key == "v1" and "<sop>" in case["query"]:
            continue  # the official code lets a user write <sop>; here it stays text
        assert tokenizer.template.render(messages_of(case)).tokens == case["ids"]


@pytest.mark.parametrize(
    ("name", "generation"),
    [("glm-z1-0414", "glm_z1"), ("glm-4.6", "glm4_moe")],
)
def test_published_chat_templates_are_rendered_to_the_letter(
    shared: Path, name: str, generation: str
) -> None:
    tokenizer = load_tokenizer(shared / "tokenizers/glm-4-9b-chat", generation)
    found = json.loads((shared / "tokenizers/more/templates/cases.json").read_text("utf-8"))
    for case in found[name]["cases"]:
        if case["add_generation_prompt"]:
            text = tokenizer.template.text(
                messages_of(case), tools=case.get("tools"), thinking=case.get("enable_thinking")
            )
            assert text == case["rendered"]
