"""What kind of text it is: what tells the weighty sentences differs between an article, a
transcript of speech and a dialogue.
"""

from __future__ import annotations

import re
from typing import Literal

from chatglm.apps.summarize.rank import Weights
from chatglm.apps.text import characters

Genre = Literal["article", "transcript", "dialogue"]

_TURN = re.compile(r"\s*([^\s：:，,。.]{1,12}(?: [A-Z][a-z]+)?)\s*[：:]\s*(.*)")
_ORAL = re.compile(
    r"这个|就是|那个|然后|对吧|我觉得|呢|啊|嘛|吧|其实|所以说|那么|咱们"
    r"|\b(?:you know|I mean|I think|gonna|kind of|sort of|um|uh|well|okay)\b"
)
ORAL_SHARE = 0.015
_POLITE = re.compile(
    r"(?:[好行对嗯哦]|好的|谢谢|多谢|感谢|没有?问题|麻烦|不客气|再见|知道|明白|可以|了|你|您|啊|呢|吧|的|我|，|。|！|~|\s)*"
    r"|(?:(?:ok(?:ay)?|yes|no|thanks?|thank you|bye|great|good|very much|so much)[\s,.!]*)*",
    re.IGNORECASE,
)

WEIGHTS: dict[Genre, Weights] = {
    "article": Weights(graph=0.5, centroid=1, place=3),
    "transcript": Weights(graph=1, centroid=0, place=0),
    "dialogue": Weights(graph=0.5, centroid=1, place=2),
}
SHARES: dict[Genre, tuple[float, int, int]] = {
    "article": (0.08, 40, 200),
    "transcript": (0.15, 60, 300),
    "dialogue": (0.45, 60, 300),
}


def genre(text: str) -> Genre:
    """The kind of a text, by its lines and its words."""
    filled = [line for line in text.splitlines() if line.strip()]
    speakers = [m[1] for line in filled if (m := _TURN.match(line))]
    if len(speakers) >= max(4, 0.6 * len(filled)) and 2 <= len(set(speakers)) <= len(speakers) / 2:
        return "dialogue"
    return "transcript" if len(_ORAL.findall(text)) > ORAL_SHARE * len(text) else "article"


def usual_length(text: str, kind: Genre) -> int:
    """Characters of a paragraph that sums up a text of this kind."""
    share, low, high = SHARES[kind]
    return min(high, max(low, round(share * characters(text))))


def matter(text: str) -> str:
    """What a dialogue is about: the turns of whoever opened it, without courtesies.

    The one who opens brings the matter; the other answers it.
    """
    turns = [m for line in text.splitlines() if (m := _TURN.match(line))]
    first = turns[0][1]
    said = [m[2].strip() for m in turns if m[1] == first]
    return "\n".join(s for s in said if not _POLITE.fullmatch(s)) or "\n".join(said)
