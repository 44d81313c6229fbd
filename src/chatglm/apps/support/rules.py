"""What is decided before any search: who asks for a person, and what no machine may answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatglm.apps.knowledge.words import normalized

_PERSON = (
    r"(?:人工服务|人工坐席|工作人员|在线客服|人工|真人|活人|专员|客服)(?:客服|服务|坐席|人员)?"
)
_CALLS = re.compile(
    rf"(?:我|请|要|想|帮|给|麻烦|直接|快|能不能|能否|能|可不可以|可以|你)*(?:转|找|换|叫|接|要|联系|呼叫|转接)"
    rf"(?:到|给|一下|个|一个|我)*{_PERSON}(?:吧|啊|呀|来|谢谢|好吗|行吗|可以吗|吗|了)*"
)
_ALONE = re.compile(r"(?:人工|真人|转人工|人工服务|人工客服|真人客服)")
_ENGLISH = re.compile(
    r"\b(?:(?:talk|speak|connect|transfer)\b.{0,20}\b(?:human|person|agent|someone)|human agent)\b"
)
_CLAUSE = re.compile(r"[，。！？；、,.!?;~\s]+")
_GREETING = re.compile(
    r"(?:你好|您好|hi|hello|嗨|哈喽|在吗|在么|有人吗|早上好|下午好|晚上好|早|亲)+[呀啊吗]*"
)
_THANKS = re.compile(
    r"(?:好的|ok|嗯|非常|太|多)*(?:谢谢|感谢|thanks|thank you|辛苦)(?:你|您|了|啦)*"
)
_PARTING = re.compile(r"(?:好的)?(?:再见|拜拜|bye|没事了|没有了|不用了|没问题了)+[啦了]*")
_POLITE = re.compile(
    r"^(?:(?:你好|您好|hi|hello|在吗|请问(?:一下)?|亲|麻烦问一下|我想问一下)[，,。！!？?\s]*)+",
    re.I,
)

_ASSENTS = frozenset({"好", "好的", "嗯", "嗯嗯", "哦", "行", "可以", "ok", "知道了", "明白了"})
_LOOKALIKES = str.maketrans("", "", "\u200b\u200c\u200d\u2060\ufeff\u00ad \t\n*·.-_|")


def asks_for_person(text: str) -> bool:
    """Whether a clause of the text demands a person; asking how to reach one is a question."""
    plain = normalized(text)
    return bool(_ENGLISH.search(plain)) or any(
        _CALLS.fullmatch(clause) or _ALONE.fullmatch(clause)
        for clause in _CLAUSE.split(plain)
        if clause
    )


def small_talk(text: str) -> str | None:
    """`greeting`, `thanks` or `parting` where the text is nothing else."""
    clauses = [clause for clause in _CLAUSE.split(normalized(text)) if clause]
    for name, pattern in (("greeting", _GREETING), ("thanks", _THANKS), ("parting", _PARTING)):
        left = [clause for clause in clauses if clause not in _ASSENTS]
        if left and all(pattern.fullmatch(clause) for clause in left):
            return name
    return None


def without_politeness(text: str) -> str:
    """The text without the greeting before its question; as it is where nothing would be left."""
    return _POLITE.sub("", text).strip() or text


def parts_of(text: str) -> list[str]:
    """The sentences of a message that could each be the question, where there are several."""
    parts = [part.strip() for part in re.split(r"[。！？!?\n]+", text) if len(part.strip()) >= 4]
    return parts if len(parts) > 1 else []


class WordGate:
    """Words that may not pass, found in spite of spaces, wide forms and invisible characters.

    An automaton (Aho & Corasick 1975): time does not grow with the number of words.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.fail = [0]
        self.found = [""]
        for word in words:
            self.insert(word)
        self.link()

    def insert(self, word: str) -> None:
        """Add a word."""
        node = 0
        for c in folded(word):
            if c not in self.next[node]:
                self.next[node][c] = len(self.next)
                self.next.append({})
                self.fail.append(0)
                self.found.append("")
            node = self.next[node][c]
        if node:
            self.found[node] = word

    def link(self) -> None:
        """Where to go on when a word breaks off, shorter words first."""
        queue = list(self.next[0].values())
        for node in queue:
            for c, child in self.next[node].items():
                queue.append(child)
                back = self.fail[node]
                while back and c not in self.next[back]:
                    back = self.fail[back]
                self.fail[child] = self.next[back].get(c, 0)
                self.found[child] = self.found[child] or self.found[self.fail[child]]

    def first(self, text: str) -> str | None:
        """The first word that the text holds; None where it holds none."""
        node = 0
        for c in folded(text):
            while node and c not in self.next[node]:
                node = self.fail[node]
            node = self.next[node].get(c, 0)
            if self.found[node]:
                return self.found[node]
        return None


def folded(text: str) -> str:
    """The text as words are compared: one form for looks that differ."""
    return normalized(text).translate(_LOOKALIKES)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """An operator's rules.

    topics: what no machine may answer (a question that holds one is handed over). words: what
    neither side may say. greeting, thanks, parting, unknown, waiting, refusal: the bot's own lines.
    """

    topics: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    greeting: str = "您好，请问有什么可以帮您？"
    thanks: str = "不客气，还有其他问题可以继续问我。"
    parting: str = "感谢您的咨询，再见。"
    unknown: str = "抱歉，知识库里没有找到这个问题的答案，已为您转接人工客服，请稍候。"
    asked: str = "好的，正在为您转接人工客服，请稍候。"
    topic: str = "这个问题需要人工客服为您处理，已为您转接，请稍候。"
    still_waiting: str = "已把您的留言转给人工客服，请稍候。"
    refusal: str = "抱歉，这个内容我不能回答。"
    gates: dict[str, WordGate] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.gates["topics"] = WordGate(self.topics)
        self.gates["words"] = WordGate(self.words)

    @classmethod
    def of(cls, kept: object) -> Rules:
        """The rules that a base keeps; none where it keeps none."""
        lists = kept if isinstance(kept, dict) else {}
        return cls(topics=tuple(lists.get("topics", ())), words=tuple(lists.get("words", ())))

    def topic_in(self, text: str) -> str | None:
        """The topic that takes a question away from the machine."""
        return self.gates["topics"].first(text)

    def word_in(self, text: str) -> str | None:
        """The word that may not pass."""
        return self.gates["words"].first(text)


def read_lines(text: str) -> tuple[str, ...]:
    """A list from lines; # begins a remark."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)
