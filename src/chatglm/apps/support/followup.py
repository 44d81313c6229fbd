"""Follow-up questions made whole: 那多少钱？ after a talk of one product asks for its price."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from chatglm.apps.knowledge.words import bigrams, normalized
from chatglm.apps.support.wording import Talks
from chatglm.messages import Message

_LEAD = re.compile(
    r"^(?:那么|那|然后|还有|另外|以及|而且|所以|哦|噢|嗯|好的?)+[，,、\s]*(?![儿里边])"
)
_POINTS = re.compile(
    r"它们?(?:的)?|(?<!其)他们?(?:的)?|这个|那个|这种|那种|这些|那些|(?<!应)该|上面(?:说)?的|刚才(?:说)?的|这(?=要|能|可|怎|是|得|多)"
)
_AND_THAT = re.compile(r"^(.{1,12}?)呢[？?。！!]*$")
_ASKING = re.compile(
    r"怎么样|怎么办理|怎么办|怎么|怎样|如何|为什么|什么时候|什么|多少钱|多少|多久|多长时间|几天|几点|哪里|哪些|哪个"
    r"|可不可以|可以|能不能|能否|能(?![力源])|是否|是不是|有没有|吗|呢|吧|啊|请问|一下|我想|我要|我的|我|你们|请(?!假)|想|要(?!求)"
    r"|申请|办理|开通|查询|查看|查|取消|修改|更改|更换|设置|使用|成为|支持|有(?!效|限)|会(?![员议话计])|[？?。！!，,的了]"
)
MOST_SHORT = 6

Context = Mapping[str, str]
"""question: the last one as it was understood; title: of the entry that answered it."""


def refers_back(question: str) -> bool:
    """Whether the wording itself points to what was said before."""
    text = normalized(question).strip()
    return bool(_LEAD.match(text) or _POINTS.search(text) or _AND_THAT.match(text))


def is_short(question: str) -> bool:
    """Whether little but asking words is left, so that the subject must come from before."""
    return len(content(question)) <= MOST_SHORT


def content(text: str) -> str:
    """What a question is about, without the words that ask."""
    return _ASKING.sub("", normalized(text)).strip()


def topic_of(context: Context) -> str:
    """What the last question was about: what it shares with the entry that answered it."""
    asked = [part for part in _ASKING.split(normalized(context.get("question", ""))) if part]
    title = normalized(context.get("title", ""))
    shared = [part for part in (common(part, title) for part in asked) if len(part) > 1]
    candidates = shared or [part for part in asked if len(part) > 1]
    return max(candidates, key=len, default="")


def common(first: str, second: str) -> str:
    """The longest run of characters that both texts have."""
    found = SequenceMatcher(None, first, second, autojunk=False).find_longest_match()
    return first[found.a : found.a + found.size]


def completions(question: str, context: Context) -> list[str]:
    """The question made whole in every way that makes sense, the likeliest first."""
    topic = topic_of(context)
    if not topic:
        return []
    text = _LEAD.sub("", question.strip()).strip()
    last = normalized(context.get("question", ""))
    if found := _AND_THAT.match(text):
        subject = found.group(1).strip()
        whole = last.replace(topic, normalized(subject), 1) if topic in last else ""
        return [form for form in (whole, f"{topic}{subject}") if form]
    pointed = _POINTS.sub(topic, text, count=1)
    return [pointed if pointed != text else f"{topic}{text}"]


def rewritten_by(model: Talks, question: str, said: Sequence[str]) -> str | None:
    """The model's whole question; None where it brings in what nobody said."""
    talk = "\n".join(said)
    messages = [
        Message(
            role="system",
            content="根据对话，把最后的追问改写成一句完整的问题，只输出这个问题。",
        ),
        Message(role="user", content=f"对话：\n{talk}\n\n追问：{question}"),
    ]
    reply = "".join(model.stream_messages(messages, max_new_tokens=64, temperature=0.0)).strip()
    whole = reply.splitlines()[0].strip() if reply else ""
    known = bigrams(talk + "\n" + question)
    pairs = bigrams(content(whole))
    is_said = bool(pairs) and len(pairs & known) >= 0.8 * len(pairs)
    return whole if is_said and len(whole) <= 100 else None
