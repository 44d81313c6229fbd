"""What the applications remark on their results, in the language of the terminal.

They tell it in English, which records of `--json` keep; the page has the same words in `words.js`.
"""

from __future__ import annotations

import re

from chatglm.cli.console import say

WORDS = {
    "{name} is {code}, read as such; output is UTF-8": (
        "{name} 是 {code} 编码，已按此读取；输出为 UTF-8"
    ),
    "line {n}: {remark}": "第 {n} 行：{remark}",
    "not translated: it would break the structure": "未译：译文会破坏结构",
    "not translated: {remark}": "未译：{remark}",
    "the model has no translation": "模型没有给出译文",
    "{share} like: {text}": "与译过的“{text}”相似 {share}",
    "the number {n} is missing": "缺少数字 {n}",
    "{text} is missing": "缺少 {text}",
    "{text} was added": "多出 {text}",
    "{term} is not translated as {text}": "{term} 没有译成 {text}",
    "its markup is in another order": "标记的顺序变了",
    "its lines are others": "行数变了",
    "it runs on": "内容过长",
    "it is empty": "内容为空",
    "it has no words": "没有文字",
    "it is in another language": "语言不对",
    "it has hardly a word of the text": "与原文几乎没有共同的字",
    "the model's summary was not used: {remark}": "未采用模型的摘要：{remark}",
    "a part's summary was not used; its best sentences stand in": (
        "有一部分未采用模型的摘要，改用其中最重要的句子"
    ),
    "it repeats itself": "内容重复",
    "the text has no {text}": "原文中没有 {text}",
    "the text has only {share} of its words": "只有 {share} 的词出自原文",
    "it does not fit": "不合要求",
    "{n} of {all} parts stayed as they were: their rewriting lost numbers, names or sense": (
        "{all} 处中有 {n} 处保持原样：改写丢了数字、名称或意思"
    ),
    "the model stopped at {n} of {all} characters": "要求 {all} 字，模型写到 {n} 字就停了",
    "lines that were not in the form were written by the embedded model": (
        "不合格式的句子由内置模型写成"
    ),
}
"""A remark in English and in Chinese; a part named `remark` is one again."""


def remark(english: str) -> str:
    """A remark in the language of the interface."""
    return say(english, in_chinese(english))


def in_chinese(english: str) -> str:
    """A remark in Chinese; one that is not known as it is."""
    for words, chinese in WORDS.items():
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.+?)", re.escape(words))
        if found := re.fullmatch(pattern, english, re.DOTALL):
            parts = found.groupdict()
            if "remark" in parts:
                parts["remark"] = in_chinese(parts["remark"])
            return chinese.format(**parts)
    return english
