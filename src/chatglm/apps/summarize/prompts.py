"""How a model is asked for a summary: small models in the words they were fine-tuned on."""

from __future__ import annotations

from typing import Literal

from chatglm.apps.summarize.genre import Genre
from chatglm.apps.text import Language

Form = Literal["headline", "paragraph", "points"]
FORMS: tuple[Form, ...] = ("headline", "paragraph", "points")

_TUNED: dict[Genre, str] = {
    "article": "请为以下文章写一段简短的摘要：\n{text}",
    "transcript": "请总结下面的会议发言：\n{text}",
    "dialogue": "总结下面的客服对话中用户的需求：\n{text}",
}
_TUNED_HEADLINE: dict[Genre, str] = {
    "article": "给下面这段文字拟一个合适的标题：\n{text}",
    "transcript": "为下面的会议内容写一个小标题：\n{text}",
    "dialogue": "用一个短语概括这段讨论的主题：\n{text}",
}
_GENERAL: dict[tuple[Language, Form], str] = {
    ("zh", "headline"): "请为下面的文字拟一个标题，不超过{length}个字，不加引号，只输出标题。",
    ("zh", "paragraph"): "请用一段话概括下面的文字，不超过{length}个字，只写原文里有的内容，"
    "数字和名称照原文，直接输出摘要。",
    ("zh", "points"): "请把下面的文字归纳成{points}条要点，共不超过{length}个字，每条一行，"
    "以“- ”开头，只写原文里有的内容，直接输出要点。",
    ("en", "headline"): "Write a headline of at most {length} characters for the text below. "
    "Reply with the headline only, without quotation marks.",
    ("en", "paragraph"): "Summarize the text below in one paragraph of at most {length} "
    "characters. Use only what the text says, keep its figures and names, and reply with the "
    "summary only.",
    ("en", "points"): "Summarize the text below in {points} bullet points, at most {length} "
    "characters in all, one a line, each beginning with “- ”. Use only what the text says and "
    "reply with the points only.",
}
_SECTION: dict[Language, str] = {
    "zh": "请概括下面这一部分文字的要点，不超过{length}个字，数字和名称照原文，直接输出。",
    "en": "Sum up this part of a longer text in at most {length} characters. Keep figures and "
    "names, and reply with the summary only.",
}
_FENCE: dict[Language, str] = {"zh": "文字：", "en": "Text:"}


def final_prompt(
    text: str,
    *,
    form: Form,
    kind: Genre,
    lang: Language,
    length: int,
    points: int,
    follows: bool,
) -> str:
    """The request for the summary itself."""
    if not follows:
        wording = _TUNED_HEADLINE if form == "headline" else _TUNED
        return wording[kind].format(text=text)
    task = _GENERAL[lang, form].format(length=length, points=points)
    return f"{task}\n\n{_FENCE[lang]}\n<<<\n{text}\n>>>"


def section_prompt(text: str, *, kind: Genre, lang: Language, length: int, follows: bool) -> str:
    """The request for the summary of a part."""
    if not follows:
        return _TUNED[kind].format(text=text)
    return f"{_SECTION[lang].format(length=length)}\n\n{_FENCE[lang]}\n<<<\n{text}\n>>>"
