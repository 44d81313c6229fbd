"""What `chatglm eval` measures: each task with its test set, its systems and its model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chatglm.cli.options import CommandError, load_model

if TYPE_CHECKING:
    from chatglm.apps.summarize import Summarizer
    from chatglm.generation.chat import ChatGLM
    from chatglm.generation.remote import RemoteChatGLM

Table = dict[str, dict[str, object]]
FORMS = ("jueju5", "jueju7", "lvshi5", "lvshi7", "couplet")
TOPICS = ("春雨", "秋夜", "送别", "登高", "思乡", "江南", "明月", "边塞", "梅花", "归隐")
UPPER_LINES = (
    "春风送暖",
    "佳句偶成缘鸟语",
    "明月松间照",
    "海阔凭鱼跃",
    "风声雨声读书声",
    "绿水青山",
    "万里河山披锦绣",
    "山山水水",
    "书山有路",
    "千年古树为衣架",
)


class Subject:
    """The model that is measured, loaded when it is first asked, and how it is asked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.limit: int | None = arguments.limit
        self.seed: int = arguments.seed

    @property
    def name(self) -> str:
        """What the model was called by."""
        return str(self.arguments.model or "embedded")

    @cached_property
    def model(self) -> ChatGLM | RemoteChatGLM:
        """The model."""
        return load_model(self.arguments)

    def local(self, task: str) -> ChatGLM:
        """The model, where its weights are here."""
        if not hasattr(self.model, "transformer"):
            raise CommandError(f"{task} needs the weights, and {self.name} is a remote service")
        return cast("ChatGLM", self.model)

    def causal(self, task: str) -> ChatGLM:
        """The model, where it reads from left to right."""
        model = self.local(task)
        if model.config.context != "causal":
            raise CommandError(f"{task} is for causal models, and {self.name} is a prefix model")
        return model

    def ask(self, prompts: Sequence[str]) -> list[str]:
        """Greedy replies, as one batch."""
        from chatglm.apps.text_model import Question, TextModel

        options = {"temperature": 0.0, "max_new_tokens": 512}
        model = TextModel(self.model)
        return model.ask_many([Question(prompt=p, options=options) for p in prompts])  # type: ignore[arg-type]


def measures(subject: Subject) -> Mapping[str, Callable[[Path | None], Table]]:
    """What measures each task, given its test set."""
    return {
        "perplexity": lambda path: perplexity(subject, needed(path)),
        "cmmlu": lambda path: choices(subject, needed(path)),
        "ceval": lambda path: choices(subject, needed(path)),
        "xcopa": lambda path: xcopa(subject, needed(path)),
        "cmath": lambda path: cmath(subject, needed(path)),
        "summarization": lambda path: summarization(subject, needed(path)),
        "translation": lambda path: translation(subject, needed(path)),
        "poems": lambda _: poems(subject),
        "quantization": lambda path: quantization(subject, needed(path)),
    }


def needed(path: Path | None) -> Path:
    """The path, which the caller has found."""
    assert path is not None
    return path


def perplexity(subject: Subject, path: Path) -> Table:
    """Bits per character and perplexity by domain."""
    from chatglm.evaluate.likelihood import read_texts, score, transformer_scorer
    from chatglm.evaluate.samples import sample
    from chatglm.training.run import end_of_text

    model = subject.causal("perplexity")
    texts = sample(read_texts(path), subject.limit, subject.seed)
    tokens: dict[str, int] = {}
    for domain, text in texts:
        size = len(model.tokenizer.encode(text))
        tokens[domain] = tokens.get(domain, 0) + size
        tokens["all"] = tokens.get("all", 0) + (size if domain != "all" else 0)
    tallies = score(
        texts,
        model.tokenizer.encode,
        transformer_scorer(model.transformer),
        end_of_text(model.tokenizer),
    )
    return {
        name: {
            "n": tally.num_texts,
            "bits/character": tally.bits_per_character,
            "perplexity": math.exp(tally.nats / max(tokens[name], 1)),
        }
        for name, tally in tallies.items()
    }


def choices(subject: Subject, path: Path) -> Table:
    """Accuracy on questions with letters, by logits; by the reply where these are elsewhere."""
    from chatglm.evaluate.choice import by_asking, by_letter, examples_for, tally
    from chatglm.evaluate.samples import read_choices, sample

    questions = sample(read_choices(path), subject.limit, subject.seed)
    shots = subject.arguments.shots
    dev = path.parent / ("dev" if path.is_dir() else path.name.split("_test")[0] + "_dev.jsonl")
    examples = read_choices(dev) if shots and dev.exists() else []
    if shots and not examples:
        raise CommandError(f"--shots needs examples at {dev}; leave it out")
    model = subject.model
    results = []
    for question in questions:
        shown = examples_for(question, examples, shots)
        if hasattr(model, "transformer"):
            found = by_letter(cast("ChatGLM", model), question, shown)
        else:
            found = by_asking(lambda text: subject.ask([text])[0], question, shown)
        results.append((question.subject, found == question.answer))
    scores = tally(results)
    return accuracy(scores, by_subject=subject.arguments.by_subject)


def accuracy(scores: Mapping[str, object], *, by_subject: bool) -> Table:
    """Scores as a table."""
    from chatglm.evaluate.choice import Score

    table: Table = {}
    for name, score in scores.items():
        assert isinstance(score, Score)
        if by_subject or name == "all":
            table[name] = {"n": score.num_all, "accuracy": score.accuracy, "±": score.margin}
    return table


def xcopa(subject: Subject, path: Path) -> Table:
    """Accuracy of cause and effect, by likelihood."""
    from chatglm.evaluate.choice import by_likelihood, tally
    from chatglm.evaluate.samples import read_continuations, sample

    model = subject.local("xcopa")
    items = sample(read_continuations(path), subject.limit, subject.seed)
    scores = tally((item.subject, by_likelihood(model, item) == item.answer) for item in items)
    return accuracy(scores, by_subject=True)


def cmath(subject: Subject, path: Path) -> Table:
    """Word problems solved, by grade."""
    from chatglm.evaluate.generative import arithmetic
    from chatglm.evaluate.samples import read_rows, sample

    return arithmetic(sample(read_rows(path), subject.limit, subject.seed), subject.ask)


def summarization(subject: Subject, path: Path) -> Table:
    """Character ROUGE of the application's modes beside lead-3 and TextRank."""
    from chatglm.apps.summarize import Summarizer
    from chatglm.apps.summarize.rank import lead, plain_text_rank
    from chatglm.evaluate.generative import summaries
    from chatglm.evaluate.samples import read_pairs, sample

    rows = sample(read_pairs(path, "article", "ref"), subject.limit, subject.seed)
    worded = in_batches(Summarizer(subject.model, mode="abstractive"), rows)
    extractor = Summarizer(mode="extractive")

    def extractive(row: Mapping[str, str]) -> str:
        form = "headline" if row.get("type") == "title" else "paragraph"
        return extractor.summarize(row["article"], form=form).text  # type: ignore[arg-type]

    prompts = [wording(row) for row in rows]
    raw = dict(zip((row["article"] for row in rows), subject.ask(prompts), strict=True))
    return summaries(
        rows,
        {
            "lead-3": lambda row: lead(row["article"], 3),
            "TextRank-3": lambda row: plain_text_rank(row["article"], 3),
            "extractive": extractive,
            "abstractive, checked": lambda row: worded[row["article"]],
            "the model alone": lambda row: raw[row["article"]],
        },
    )


def wording(row: Mapping[str, str]) -> str:
    """A plain request for a title or a summary."""
    task = (
        "给下面这段文字拟一个合适的标题"
        if row.get("type") == "title"
        else "请为以下文章写一段简短的摘要"
    )
    return f"{task}：\n{row['article']}"


def in_batches(summarizer: Summarizer, rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The model's summary of each article, titles as headlines."""
    done: dict[str, str] = {}
    for form in ("headline", "paragraph"):
        some = [
            row["article"] for row in rows if (form == "headline") == (row.get("type") == "title")
        ]
        made = summarizer.summarize_many(some, form=form)
        done |= {article: summary.text for article, summary in zip(some, made, strict=True)}
    return done


def translation(subject: Subject, path: Path) -> Table:
    """BLEU and chrF by direction, beside the source as it is."""
    from chatglm.apps.translate import Translator
    from chatglm.evaluate.generative import translations
    from chatglm.evaluate.samples import read_pairs, sample

    rows = sample(read_pairs(path, "src", "ref"), subject.limit, subject.seed)
    translator = Translator(subject.model)

    def translate(some: Sequence[Mapping[str, str]]) -> list[str]:
        source, target = _DIRECTIONS[some[0]["direction"]]
        texts = [row["src"] for row in some]
        return translator.translate_many(texts, source=source, target=target)

    return translations(
        rows, {"the source": lambda some: [r["src"] for r in some], "translation": translate}
    )


_DIRECTIONS = {
    "en-zh": ("en", "zh"),
    "zh-en": ("zh", "en"),
    "classical-modern": ("lzh", "zh"),
    "modern-classical": ("zh", "lzh"),
}


def poems(subject: Subject) -> Table:
    """Poems and couplets in their form: by the application, and by the model left alone."""
    from chatglm.apps.write import Writer
    from chatglm.evaluate.generative import verses

    writer = Writer(subject.model)
    seeds = range(subject.seed, subject.seed + 2)

    def topic_of(form: str, topic: str) -> str:
        return UPPER_LINES[TOPICS.index(topic)] if form == "couplet" else topic

    def written(form: str, topic: str, seed: int) -> list[str]:
        asked = topic_of(form, topic)
        return writer.faults(form, asked, writer.write(form, asked, seed=seed).text)

    def alone(form: str, topic: str, seed: int) -> list[str]:
        asked = topic_of(form, topic)
        return writer.faults(form, asked, writer.unconstrained(form, asked, seed=seed))

    topics = TOPICS[: subject.limit] if subject.limit else TOPICS
    return verses(topics, FORMS, seeds, {"in its layout": written, "the model alone": alone})


def quantization(subject: Subject, path: Path) -> Table:
    """Perplexity, KL and agreement of every kind of quantization beside the model as it is; with
    --calibrate, of each calibrated too.
    """
    from chatglm import checkpoint
    from chatglm.evaluate.likelihood import read_texts
    from chatglm.evaluate.quantization import compare
    from chatglm.evaluate.samples import sample
    from chatglm.quantization.scheme import INTEGER_KINDS
    from chatglm.training.run import end_of_text

    arguments = subject.arguments
    kinds = (arguments.quantize,) if arguments.quantize else INTEGER_KINDS
    arguments.quantize = None  # the model itself is the measure
    calibrate, arguments.calibrate = arguments.calibrate, None
    model = subject.causal("quantization")
    others = {}
    for kind in kinds:
        for texts_of in (None, calibrate)[: 1 + (calibrate is not None)]:
            name = kind if texts_of is None else f"{kind}, calibrated"
            others[name] = checkpoint.load(
                arguments.model,
                dtype=arguments.dtype,
                device=arguments.device,
                quantize=kind,
                calibrate=texts_of,
            ).model
    texts = sample(read_texts(path), subject.limit, subject.seed)
    start = end_of_text(model.tokenizer)
    rows = [[start, *model.tokenizer.encode(text)] for _, text in texts]
    losses = compare(model.transformer, others, rows)
    return {name: {"tokens": loss.num_tokens, **loss.to_dict()} for name, loss in losses.items()}
