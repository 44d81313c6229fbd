"""How a model is asked for a translation: small models in the words they were fine-tuned on."""

from __future__ import annotations

from collections.abc import Mapping

from chatglm.apps.translate.direction import Direction, Tongue

_TUNED: dict[tuple[Tongue, Tongue], str] = {
    ("en", "zh"): "把下面的英文翻译成中文：\n",
    ("zh", "en"): "把下面的中文翻译成英文：\n",
    ("lzh", "en"): "把下面的中文翻译成英文：\n",
    ("en", "lzh"): "把下面的英文翻译成中文：\n",
    ("lzh", "zh"): "把下面的文言文翻译成现代汉语：\n",
    ("zh", "lzh"): "把下面的现代文改写成文言文：\n",
}
_NAMES: dict[Tongue, str] = {"zh": "现代汉语（简体）", "en": "英文", "lzh": "文言文"}


def prompt(
    text: str,
    direction: Direction,
    *,
    follows: bool,
    terms: Mapping[str, str] | None = None,
    similar: tuple[str, str] | None = None,
) -> str:
    """The request for a translation.

    terms: glossary entries that occur. similar: a pair from the translation memory.
    """
    if not follows:
        return _TUNED[direction.source, direction.target] + text
    lines = [
        f"把<<<与>>>之间的{_NAMES[direction.source]}翻译成{_NAMES[direction.target]}。"
        "只输出译文，不解释，不加引号；保持换行。"
    ]
    if "⟦" in text:
        lines.append("⟦1⟧ 这样的记号原样保留，每个恰好出现一次，放在译文中对应的位置。")
    if any(c.isdigit() for c in text):
        lines.append("数字照原样写，不要改写成汉字或单词。")
    if terms:
        lines.append("术语：" + "；".join(f"{a} → {b}" for a, b in terms.items()))
    if similar:
        lines.append(f"相近句子的译文供参考：{similar[0]} → {similar[1]}")
    return "\n".join([*lines, "", f"<<<\n{text}\n>>>"])
