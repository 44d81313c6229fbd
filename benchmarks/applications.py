"""Translation beside a word-by-word dictionary: BLEU, chrF and structure kept.

    python -m benchmarks.applications --data CORPUS/eval/translation.test.jsonl \\
        --pretrain CORPUS/pretrain [--model MODEL] [--limit N] [--json FILE]

The dictionary is made from the CC-CEDICT lines of the pre-training shards at run time (domain
`dictionary`). Summaries, poems and the rest are measured by `chatglm eval`. Structure is counted on
documents that are made of the test set's sentences in each format.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from chatglm.apps.text import num_han
from chatglm.apps.translate import Translator
from chatglm.apps.translate.formats import reading
from chatglm.apps.translate.kept import faults
from chatglm.evaluate.generative import translations
from chatglm.evaluate.metrics import table
from chatglm.evaluate.samples import read_pairs, sample
from chatglm.generation.chat import ChatGLM

DIRECTIONS = {
    "en-zh": ("en", "zh"),
    "zh-en": ("zh", "en"),
    "classical-modern": ("lzh", "zh"),
    "modern-classical": ("zh", "lzh"),
}
_PINYIN = re.compile(r"\[[^\]]*\]|（[^）]*）|\([^)]*\)")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?|\d+(?:[.,]\d+)*|[^\sA-Za-z\d]")


def entries(folder: Path) -> Iterator[tuple[str, str]]:
    """(Chinese, English) of each dictionary line in the shards of a folder."""
    import zstandard

    unpack = zstandard.ZstdDecompressor(max_window_size=2**27)
    for path in sorted(folder.glob("*.jsonl.zst")):
        with path.open("rb") as packed, unpack.stream_reader(packed) as raw:
            for line in io.TextIOWrapper(raw, "utf-8"):
                if '"dictionary"' not in line:
                    continue
                row = json.loads(line)
                if row.get("domain") == "dictionary":
                    yield from pairs(row["text"])


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """The entries of a dictionary page: the word before the first blank or colon, its first sense
    after.
    """
    for line in text.splitlines():
        match = re.match(r"\s*([\u3400-\u9fff]+)\s*(.*)", line)
        if match is None:
            continue
        rest = _PINYIN.sub(" ", match[2]).strip(" :：—-/")
        sense = re.split(r"[;；/,，。]", rest)[0].strip()
        sense = re.sub(r"^(?:[a-zü:]+[1-5]\s*)+", "", sense).strip(" :：—-")
        if sense and num_han(sense) == 0:
            yield match[1], sense


class Dictionary:
    """Word-by-word translation by the longest entry that fits."""

    def __init__(self, found: Iterator[tuple[str, str]]) -> None:
        self.english: dict[str, str] = {}
        self.chinese: dict[str, str] = {}
        for word, sense in found:
            self.english.setdefault(word, re.sub(r"^to ", "", sense))
            key = re.sub(r"^(?:to|a|an|the) ", "", sense.lower())
            known = self.chinese.get(key)
            if known is None or len(word) < len(known):
                self.chinese[key] = word
        self.longest = max(map(len, self.english), default=1)

    def to_english(self, text: str) -> str:
        """Chinese into English."""
        out: list[str] = []
        at = 0
        while at < len(text):
            for size in range(min(self.longest, len(text) - at), 0, -1):
                word = text[at : at + size]
                if word in self.english:
                    out.append(self.english[word])
                    at += size
                    break
            else:
                out.append(text[at])
                at += 1
        return " ".join(out)

    def to_chinese(self, text: str) -> str:
        """English into Chinese; a plural or past form is looked up without its ending too."""
        return "".join(self.word(word) for word in _WORD.findall(text))

    def word(self, word: str) -> str:
        """One English word in Chinese."""
        lower = word.lower()
        for form in (lower, *(lower.removesuffix(e) for e in ("s", "es", "ed", "d", "ing", "ly"))):
            if form in self.chinese:
                return self.chinese[form]
        return word


def by_dictionary(dictionary: Dictionary, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Word-by-word translations; between classical and modern Chinese the text as it is."""
    direction = rows[0]["direction"]
    if direction == "en-zh":
        return [dictionary.to_chinese(row["src"]) for row in rows]
    if direction == "zh-en":
        return [dictionary.to_english(row["src"]) for row in rows]
    return [row["src"] for row in rows]


def documents(rows: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str, str]]:
    """(format, document, source language) made of the test set's sentences, five a document."""
    for direction, source in (("en-zh", "en"), ("zh-en", "zh")):
        texts = [" ".join(r["src"].split()) for r in rows if r["direction"] == direction]
        for start in range(0, len(texts) - 4, 5):
            a, b, c, d, e = texts[start : start + 5]
            plain = f"{a}\n\n- {b} {{name}}\n- {c} %s\n\n{d} https://a.b/c?d=1\n{e} 12:30\n"
            yield "text", plain, source
            link = f"[{b[:20].replace('[', '').replace(']', '')}](https://x.y/z)"
            head = f"# {a}\n\n{link} `code` **3** {c}\n\n"
            rows_of_table = f"| {d.replace('|', ' ')} | 1,000 |\n|---|--:|\n| x | {e} |\n"
            yield "markdown", f"{head}{rows_of_table}\n```sh\nls -l\n```\n", source
            times = "00:00:0{0},000 --> 00:00:0{0},900"
            cues = "\n\n".join(
                f"{i}\n{times.format(i)}\n<i>{text}</i>" for i, text in enumerate((a, b, c), 1)
            )
            yield "srt", f"{cues}\n", source
            strings = {"a": f"{a} {{n}}", "b": {"c": [b, f"<b>{c}</b>", 3]}, "d": f"{d} %d"}
            yield "json", json.dumps(strings, ensure_ascii=False, indent=2) + "\n", source
            quoted = [json.dumps(f"{t} %s", ensure_ascii=False) for t in (a, b)]
            yield "po", "\n".join(f'msgid {q}\nmsgstr ""\n' for q in quoted), source


def structure(translator: Translator, rows: Sequence[Mapping[str, str]]) -> dict[str, object]:
    """How many documents kept frame, placeholders, markup and numbers, and how many segments were
    translated.
    """
    total = kept = segments = translated = 0
    for format, text, source in documents(rows):
        how = reading(format)
        target = "zh" if source == "en" else "en"
        done = translator.translate_document(text, format, source=source, target=target)
        units = [s.unit for s in how.parse(text, "a").segments]
        is_kept = how.frame(done.text) == how.frame(text)
        if is_kept and format != "po":  # a filled catalogue has no open entries to compare
            again = [s.unit.text for s in how.parse(done.text, "b").segments]
            is_kept = len(again) == len(units) and not any(
                faults(u.text, t, u.style) for u, t in zip(units, again, strict=True)
            )
        total += 1
        kept += is_kept
        segments += len(units)
        translated += len(units) - done.num_untranslated
    return {
        "documents": total,
        "structure kept": 100 * kept / max(total, 1),
        "segments": segments,
        "translated": 100 * translated / max(segments, 1),
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pretrain", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = sample(read_pairs(arguments.data, "src", "ref"), arguments.limit, arguments.seed)
    dictionary = Dictionary(entries(arguments.pretrain))
    print(f"{len(dictionary.english)} Chinese and {len(dictionary.chinese)} English entries\n")
    model = ChatGLM.from_pretrained(arguments.model) if arguments.model else None
    translator = Translator(model)  # type: ignore[arg-type]

    def ours(some: Sequence[Mapping[str, str]]) -> list[str]:
        source, target = DIRECTIONS[some[0]["direction"]]
        return translator.translate_many([r["src"] for r in some], source=source, target=target)

    systems = {"dictionary": lambda some: by_dictionary(dictionary, some), "model": ours}
    scores = translations(rows, systems)
    print(table(scores, "translation"), "\n")
    shape = {"translator": structure(translator, rows)}
    print(table(shape, "structure"))
    if arguments.json:
        record = {"translation": scores, "structure": shape}
        arguments.json.write_text(json.dumps(record, ensure_ascii=False, indent=2), "utf-8")


if __name__ == "__main__":
    main()
