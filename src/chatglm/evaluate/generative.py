"""Tasks where a model writes: arithmetic, summaries, translations, poems."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

from chatglm.evaluate.metrics import bleu_and_chrf, mean, rouge

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:\s*/\s*\d+)?%?")
Many = Callable[[Sequence[str]], list[str]]


def answer_of(reply: str) -> str | None:
    """The number that a reply ends with, after 答案 where it says so; None where it has none."""
    tail = re.split(r"答案(?:是|为)?[：:]?|####", reply)[-1]
    found = _NUMBER.findall(tail) or _NUMBER.findall(reply)
    return found[-1] if found else None


def is_same_number(found: str | None, wanted: str) -> bool:
    """Whether two spellings are one number."""
    if found is None:
        return False
    try:
        return value(found) == value(wanted)
    except (InvalidOperation, ZeroDivisionError):
        return found.strip() == wanted.strip()


def value(text: str) -> Decimal:
    """The value of a number, a fraction or a percentage."""
    plain = text.replace(",", "").replace(" ", "")
    if plain.endswith("%"):
        return value(plain[:-1]) / 100
    if "/" in plain:
        top, bottom = plain.split("/", 1)
        return Decimal(top) / Decimal(bottom)
    return Decimal(plain)


def arithmetic(rows: Sequence[Mapping[str, object]], ask: Many) -> dict[str, dict[str, object]]:
    """Percent of word problems solved, by grade."""
    prompts = [f"{row['input']}\n请一步步计算，最后一行写“答案：数字”。" for row in rows]
    replies = ask(prompts)
    right = [
        is_same_number(answer_of(reply), str(row["golden"]))
        for reply, row in zip(replies, rows, strict=True)
    ]
    table: dict[str, dict[str, object]] = {}
    grades = sorted({str(row.get("grade", "all")) for row in rows})
    for name in (*grades, "all"):
        some = [
            r
            for r, row in zip(right, rows, strict=True)
            if name == "all" or str(row.get("grade", "all")) == name
        ]
        table[name] = {"n": len(some), "accuracy": 100 * mean(some)}
    return table


def summaries(
    rows: Sequence[Mapping[str, str]], systems: Mapping[str, Callable[[Mapping[str, str]], str]]
) -> dict[str, dict[str, object]]:
    """Character ROUGE of each system over all rows, and by `type` where rows have it."""
    table: dict[str, dict[str, object]] = {}
    kinds = sorted({row.get("type", "all") for row in rows})
    for name, system in systems.items():
        texts = [system(row) for row in rows]
        for kind in [*kinds, "all"] if len(kinds) > 1 else ["all"]:
            chosen = [
                (text, row["ref"])
                for text, row in zip(texts, rows, strict=True)
                if kind == "all" or row.get("type") == kind
            ]
            scores = rouge([text for text, _ in chosen], [ref for _, ref in chosen])
            label = name if kind == "all" else f"{name}, {kind}"
            table[label] = {"n": len(chosen), **scores}
    return table


def translations(
    rows: Sequence[Mapping[str, str]],
    systems: Mapping[str, Callable[[Sequence[Mapping[str, str]]], list[str]]],
) -> dict[str, dict[str, object]]:
    """BLEU and chrF of each system by direction (`source-target`)."""
    table: dict[str, dict[str, object]] = {}
    for direction in sorted({row["direction"] for row in rows}):
        some = [row for row in rows if row["direction"] == direction]
        target = "en" if direction.endswith("-en") else "zh"
        for name, system in systems.items():
            scores = bleu_and_chrf(system(some), [row["ref"] for row in some], target=target)
            table[f"{name}, {direction}"] = {"n": len(some), **scores}
    return table


def verses(
    topics: Sequence[str],
    forms: Sequence[str],
    seeds: Sequence[int],
    systems: Mapping[str, Callable[[str, str, int], Sequence[str]]],
) -> dict[str, dict[str, object]]:
    """Percent of poems in their form by system and form; a system gives what is wrong with its
    poem on a topic, in a form, by a seed.
    """
    table: dict[str, dict[str, object]] = {}
    for name, system in systems.items():
        everything: list[bool] = []
        for form in forms:
            right = [not system(form, topic, seed) for topic in topics for seed in seeds]
            everything += right
            table[f"{name}, {form}"] = {"n": len(right), "in form": 100 * mean(right)}
        table[f"{name}, all"] = {"n": len(everything), "in form": 100 * mean(everything)}
    return table
