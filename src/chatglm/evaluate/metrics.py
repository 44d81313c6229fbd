"""How near a text comes to a reference: ROUGE over characters, BLEU and chrF by sacreBLEU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chatglm.errors import missing_extra


@dataclass(frozen=True)
class Overlap:
    """Precision, recall and their harmonic mean, between 0 and 1."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """2PR ÷ (P + R)."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def units(text: str) -> str:
    """The characters that are compared: lower case, without blank space."""
    return "".join(text.lower().split())


def rouge_n(candidate: str, reference: str, n: int) -> Overlap:
    """ROUGE-N over characters (aclanthology.org/W04-1013, §2)."""
    ours, theirs = grams(units(candidate), n), grams(units(reference), n)
    shared = (ours & theirs).total()
    return Overlap(shared / max(ours.total(), 1), shared / max(theirs.total(), 1))


def grams(text: str, n: int) -> Counter[str]:
    """How often each run of n characters occurs."""
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def rouge_l(candidate: str, reference: str) -> Overlap:
    """ROUGE-L over characters: the longest common subsequence of the whole texts (ibid., §3)."""
    ours, theirs = units(candidate), units(reference)
    length = common_subsequence(ours, theirs)
    return Overlap(length / max(len(ours), 1), length / max(len(theirs), 1))


def common_subsequence(a: str, b: str) -> int:
    """The length of the longest common subsequence, one bit a character of `a` (Hyyrö 2004)."""
    if not a:
        return 0
    places: dict[str, int] = {}
    for i, c in enumerate(a):
        places[c] = places.get(c, 0) | 1 << i
    full = (1 << len(a)) - 1
    rows = full
    for c in b:
        matched = rows & places.get(c, 0)
        rows = (rows + matched | rows - matched) & full
    return len(a) - rows.bit_count()


def rouge(candidates: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F1 in percent of ROUGE-1, ROUGE-2 and ROUGE-L, with the mean length."""
    pairs = list(zip(candidates, references, strict=True))
    return {
        "rouge1": mean(rouge_n(c, r, 1).f1 for c, r in pairs) * 100,
        "rouge2": mean(rouge_n(c, r, 2).f1 for c, r in pairs) * 100,
        "rougeL": mean(rouge_l(c, r).f1 for c, r in pairs) * 100,
        "characters": mean(len(units(c)) for c in candidates),
    }


def bleu_and_chrf(
    candidates: Sequence[str], references: Sequence[str], *, target: str
) -> dict[str, float]:
    """Corpus BLEU and chrF2 in percent; Chinese by sacreBLEU's `zh` tokenizer."""
    try:
        import sacrebleu
    except ImportError as error:
        raise missing_extra("sacrebleu", "apps") from error
    tokenize = "zh" if target != "en" else "13a"
    columns = [list(references)]
    return {
        "bleu": sacrebleu.corpus_bleu(list(candidates), columns, tokenize=tokenize).score,
        "chrf": sacrebleu.corpus_chrf(list(candidates), columns).score,
    }


def mean(values: Iterable[float]) -> float:
    """The average; 0 of nothing."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0


def table(rows: Mapping[str, Mapping[str, object]], first: str = "") -> str:
    """A Markdown table: a row for each name, a column for each key that occurs."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"| {first} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(shown(row.get(c)) for c in columns)} |")
    return "\n".join(lines)


def shown(value: object) -> str:
    """A cell: two decimals of a number, four of one below 1, nothing for nothing."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if 0 < abs(value) < 1 else f"{value:.2f}"
