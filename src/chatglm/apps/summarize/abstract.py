"""Summaries in a model's own words, checked against the text; parts first where it is long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatglm.apps.summarize import checks
from chatglm.apps.summarize.extract import extract
from chatglm.apps.summarize.prompts import final_prompt, section_prompt
from chatglm.apps.summarize.sections import split
from chatglm.apps.summarize.task import Summary, Task, with_text
from chatglm.apps.text import has_letters
from chatglm.apps.text_model import COPIED, Options, Question, TextModel

Progress = Callable[[int, int], None]
MIN_SUPPORT = {True: 0.2, False: 0.5}
"""Share of a summary's terms that the text must have: a model that follows may paraphrase."""


class Wording:
    """Asks a model for summaries."""

    def __init__(self, model: TextModel) -> None:
        self.model = model
        self.support = MIN_SUPPORT[model.follows]

    def word(self, tasks: Sequence[Task], on_progress: Progress | None) -> list[Summary]:
        """Summaries in the model's words: parts first where a text is long, then the whole."""
        parts = [self.parts(task) for task in tasks]
        total = sum(len(p) for p in parts if len(p) > 1) + len(tasks)
        done = 0

        def count(_index: int, _reply: str) -> None:
            nonlocal done
            done += 1
            if on_progress is not None:
                on_progress(min(done, total), total)

        sources = [p[0] if len(p) == 1 else "" for p in parts]
        long = [i for i, p in enumerate(parts) if len(p) > 1]
        for i, reduced in zip(
            long,
            self.reduce([tasks[i] for i in long], [parts[i] for i in long], count),
            strict=True,
        ):
            sources[i] = reduced
        asked = [self.question(task, source) for task, source in zip(tasks, sources, strict=True)]
        replies = self.model.ask_many(asked, count)
        return [
            self.finish(task, source, reply, len(part))
            for task, source, reply, part in zip(tasks, sources, replies, parts, strict=True)
        ]

    def parts(self, task: Task) -> list[str]:
        """The text in parts that fit the model's context beside prompt and reply."""
        return split(task.text, self.room(task), self.model.num_tokens)

    def room(self, task: Task) -> int:
        """Tokens of text that one prompt may hold."""
        wording = self.question(task, "").prompt
        reply = self.reply_tokens(task.length)
        room = self.model.context - self.model.num_tokens(wording) - reply - 32
        if room < 64:
            raise ValueError(
                f"a summary of {task.length} characters leaves no room for the text in a context "
                f"of {self.model.context} tokens; ask for a shorter one, or use a larger model"
            )
        return room

    def reply_tokens(self, length: int) -> int:
        """Tokens that a summary of so many characters may take."""
        return min(length + 32, self.model.context // 3)

    def reduce(
        self,
        tasks: Sequence[Task],
        parts: Sequence[list[str]],
        on_reply: Callable[[int, str], None],
    ) -> list[str]:
        """Each long text as the summaries of its parts, again and again until they fit a prompt."""
        current = [list(p) for p in parts]
        while open_ := [i for i, p in enumerate(current) if len(p) > 1]:
            questions, sources, owners = [], [], []
            for i in open_:
                length = max(60, min(300, self.room(tasks[i]) // len(current[i])))
                for part in current[i]:
                    questions.append(self.part_question(tasks[i], part, length))
                    sources.append((part, length))
                    owners.append(i)
            replies = self.model.ask_many(questions, on_reply)
            gathered: dict[int, list[str]] = {i: [] for i in open_}
            for i, (source, length), reply in zip(owners, sources, replies, strict=True):
                gathered[i].append(self.believed(tasks[i], source, reply, length))
            for i in open_:
                text = "\n".join(gathered[i])
                parts_now = split(text, self.room(tasks[i]), self.model.num_tokens)
                if len(parts_now) >= len(current[i]):  # a model that writes at length
                    parts_now = [extract(with_text(tasks[i], text, self.room(tasks[i]) // 2)).text]
                current[i] = parts_now
        return [p[0] for p in current]

    def question(self, task: Task, source: str) -> Question:
        """The request for the summary itself."""
        prompt = final_prompt(
            source,
            form=task.form,
            kind=task.kind,
            lang=task.lang,
            length=task.length,
            points=task.points,
            follows=self.model.follows,
        )
        return Question(prompt=prompt, options=self.options(task))

    def part_question(self, task: Task, part: str, length: int) -> Question:
        """The request for a part's summary."""
        prompt = section_prompt(
            part, kind=task.kind, lang=task.lang, length=length, follows=self.model.follows
        )
        return Question(prompt=prompt, options=self.options(task))

    def options(self, task: Task) -> Options:
        """Greedy: a summary is not the place for chance."""
        options: Options = {
            "speculate": COPIED,
            "temperature": 0.0,
            "max_new_tokens": self.reply_tokens(task.length),
        }
        if task.seed is not None:
            options["seed"] = task.seed
        return options

    def finish(self, task: Task, source: str, reply: str, num_parts: int) -> Summary:
        """The model's reply in its form, or sentences of the text where it cannot be believed."""
        text = self.in_form(task, reply)
        if has_letters(text):
            return Summary(
                text=text,
                form=task.form,
                mode="abstractive",
                language=task.lang,
                genre=task.kind,
                sections=num_parts,
                notes=tuple(task.notes),
            )
        reason = (checks.problems(reply, task.text, self.support) or ["it does not fit"])[0]
        task.notes.append(f"the model's summary was not used: {reason}")
        return extract(task)

    def in_form(self, task: Task, reply: str) -> str:
        """What can be believed of a reply, in the asked form and length."""
        if task.form == "points":
            lines = [
                line
                for line in reply.splitlines()
                if not checks.problems(line, task.text, self.support)
            ]
            return checks.bullets("\n".join(lines), task.points, task.length)
        if task.form == "headline":
            text = checks.headline(reply, task.length)
            return "" if checks.problems(text, task.text, self.support) else text
        return checks.clipped(checks.supported(reply, task.text, self.support), task.length)

    def believed(self, task: Task, source: str, reply: str, length: int) -> str:
        """A part's summary, or its best sentences where the model's is not to be believed."""
        text = checks.clipped(checks.supported(reply, source, self.support), length)
        if has_letters(text):
            return text
        task.notes.append("a part's summary was not used; its best sentences stand in")
        return extract(with_text(task, source, length)).text
