"""Chat formats as Jinja, for tools that render them so."""

from __future__ import annotations

import json
from pathlib import Path

# After a special token a text of SentencePiece's begins with a blank, which is not written here.
_CHATGLM2 = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[Round ' + (loop.index0 // 2 + 1)|string + ']\\n\\n问：' + message['content'] + "
    "'\\n\\n答：' }}{% else %}{{ message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"
)
_CHATGLM3 = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n ' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_GLM4 = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def chat_template(generation: str, folder: Path) -> str | None:
    """The format of a model: as the files in `folder` have it, else the plain one of its
    generation; None where there is neither.

    ChatGLM2's and 3's is always the plain one: what their files have is for the official tokenizer
    class, and other tools read it with a blank too many.
    """
    if generation in ("chatglm2", "chatglm3"):
        return _CHATGLM2 if generation == "chatglm2" else _CHATGLM3
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text("utf-8")
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text("utf-8")).get("chat_template") if path.is_file() else None
    if isinstance(said, str):
        return said
    return _GLM4 if generation == "glm4" else None
