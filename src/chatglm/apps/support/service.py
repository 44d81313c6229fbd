"""CustomerService: a question in; an answer with its source, or a person, out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from chatglm.apps.knowledge.base import KnowledgeBase
from chatglm.apps.knowledge.certainty import checked_threshold
from chatglm.apps.knowledge.extract import plain_text
from chatglm.apps.knowledge.records import EVERYTHING, Filter, Hit
from chatglm.apps.knowledge.words import bigrams
from chatglm.apps.support.desk import Desk, HandOver, Session
from chatglm.apps.support.followup import (
    completions,
    content,
    is_short,
    refers_back,
    rewritten_by,
)
from chatglm.apps.support.reply import Action, Reason, Reply
from chatglm.apps.support.rules import (
    Rules,
    asks_for_person,
    parts_of,
    small_talk,
    without_politeness,
)
from chatglm.apps.support.webhook import Webhook
from chatglm.apps.support.wording import WORDINGS, Talks, Worded, Wording, as_found, by_model

if TYPE_CHECKING:
    from chatglm.generation.chat import ChatGLM

MOST_CHARACTERS = 2000
NUM_HITS = 5
NUM_SUGGESTED = 3
NEAR = 0.1  # the certainty below which suggestions would only puzzle
LINES_FOR_AGENT = 12

OnHandOver = Callable[[HandOver], object]


@dataclass(frozen=True, kw_only=True)
class Understood:
    """A question as it was searched for, and what was found."""

    question: str
    hits: Sequence[Hit]
    certainty: float


class CustomerService:
    """Answers from a base and from nothing else.

    base: a KnowledgeBase or its name. wording: `quote` gives the best text as it stands; `model`
    lets a model word it, held to the sources. model: None opens the embedded model when it is
    needed. rules, webhook, threshold (the certainty from which on to answer): None for those that
    are kept with the base. only: the sources or tags that may be used. on_handover: told of every
    new hand-over.
    """

    def __init__(
        self,
        base: KnowledgeBase | str,
        *,
        model: Talks | None = None,
        wording: Wording = "quote",
        rules: Rules | None = None,
        desk: Desk | None = None,
        only: Filter = EVERYTHING,
        on_handover: OnHandOver | None = None,
        webhook: Webhook | None = None,
        threshold: float | None = None,
    ) -> None:
        if wording not in WORDINGS:
            raise ValueError(f"wording must be one of {', '.join(WORDINGS)}, got {wording!r}")
        self.base = KnowledgeBase(base) if isinstance(base, str) else base
        self.desk = desk or Desk.of(self.base.name)
        self.given, self.wording = model, wording
        self.own_rules, self.kept_rules = rules, (cast(object, None), Rules())
        self.only = only
        self.on_handover, self.own_webhook = on_handover, webhook
        self.own_threshold = None if threshold is None else checked_threshold(threshold)
        self.messengers: ThreadPoolExecutor | None = None

    @property
    def model(self) -> Talks:
        """The model that words, opened when it is first needed."""
        if self.given is None:
            from chatglm.generation.chat import ChatGLM

            self.given = cast("ChatGLM", ChatGLM.from_pretrained())
        return self.given

    @property
    def rules(self) -> Rules:
        """The operator's: those given here, else those kept with the base, as they are now."""
        if self.own_rules is not None:
            return self.own_rules
        kept = self.base.store.setting("rules")
        if kept != self.kept_rules[0]:
            self.kept_rules = (kept, Rules.of(kept))
        return self.kept_rules[1]

    @property
    def webhook(self) -> Webhook | None:
        """The one given here, else the one kept with the base."""
        kept = self.base.store.setting("webhook") if self.own_webhook is None else None
        return Webhook.of(kept) if isinstance(kept, str) and kept else self.own_webhook

    @property
    def threshold(self) -> float:
        """The certainty from which on to answer: the one given here, else the base's."""
        return self.base.threshold if self.own_threshold is None else self.own_threshold

    def ask(self, question: str, session: str | None = None) -> Reply:
        """The reply to a question of a session; a new session where none is named."""
        text = plain_text(question).strip()
        if not text:
            raise ValueError("the question is empty")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"the question has {len(text)} characters and the limit is {MOST_CHARACTERS}; "
                "ask for one thing at a time"
            )
        talk = self.desk.session(session)
        asked = self.desk.say(talk.id, "user", text)
        self.desk.log(talk.id, "question", {"turn": asked, "text": text})
        return self.reply(talk, self.picked(talk, text))

    def picked(self, talk: Session, text: str) -> str:
        """The suggestion of the last reply that a bare number picks; else the text as it is."""
        said = [turn for turn in self.desk.turns(talk.id) if turn.role == "bot"]
        offered = cast("list[str]", said[-1].data.get("suggestions", [])) if said else []
        place = int(text) if text.isdecimal() and len(text) == 1 else 0
        return offered[place - 1] if 1 <= place <= len(offered) else text

    def reply(self, talk: Session, text: str) -> Reply:
        """What the rules decide, else what the base answers."""
        rules = self.rules
        if talk.state == "human":
            return self.done(talk, "person", "", text)
        if rules.word_in(text) is not None:
            return self.done(talk, "refusal", rules.refusal, text, reason="words")
        if asks_for_person(text):
            return self.hand_over(talk, text, "asked", rules.asked)
        if rules.topic_in(text) is not None:
            return self.hand_over(talk, text, "topic", rules.topic)
        if kind := small_talk(text):
            line = {"greeting": rules.greeting, "thanks": rules.thanks}.get(kind, rules.parting)
            return self.done(talk, "talk", line, text)
        found = self.understood(text, talk)
        if found.certainty < self.threshold or not found.hits:
            return self.hand_over(talk, text, "unknown", rules.unknown, found)
        worded = self.worded(found)
        if rules.word_in(worded.text) is not None:
            return self.hand_over(talk, text, "words", rules.unknown, found)
        return self.answer(talk, found, worded)

    # Understanding

    def understood(self, text: str, talk: Session) -> Understood:
        """The question in the form that is found with the greatest certainty."""
        plain = without_politeness(text)
        best = self.looked_up(plain)
        if talk.context:
            best = self.followed_up(plain, best, talk)
        if best.certainty < self.threshold:
            parts = [self.looked_up(part) for part in parts_of(plain)]
            best = max([best, *parts], key=lambda found: found.certainty)
        return best

    def looked_up(self, question: str) -> Understood:
        """A question with what it finds."""
        hits = self.base.search(question, NUM_HITS, only=self.only)
        return Understood(
            question=question, hits=hits, certainty=self.base.certainty(question, hits)
        )

    def followed_up(self, text: str, alone: Understood, talk: Session) -> Understood:
        """The question with the subject of the talk, where it has none of its own."""
        is_open = alone.certainty < self.threshold and is_short(text) and self.knows(text)
        if not refers_back(text) and not is_open:
            return alone
        forms = completions(text, talk.context)
        if self.wording == "model":
            said = [turn.text for turn in self.desk.turns(talk.id)[-5:-1]]
            forms += filter(None, [rewritten_by(self.model, text, said)])
        whole = [self.looked_up(form) for form in forms]
        return max([*whole, alone], key=lambda found: found.certainty)

    def knows(self, text: str) -> bool:
        """Whether the base has every word that the question is about."""
        return all(self.base.store.frequencies(bigrams(content(text))).values())

    # Answering

    def worded(self, found: Understood) -> Worded:
        """The answer in words; a certain FAQ entry as it is written."""
        first = found.hits[0].chunk
        if first.kind != "faq" and self.wording == "model":
            said = by_model(self.model, found.question, found.hits[:3])
            if said is not None:
                return said
        return as_found(found.question, first)

    def answer(self, talk: Session, found: Understood, worded: Worded) -> Reply:
        """An answer, kept with its sources and as context of what is asked next."""
        title = found.hits[0].chunk.title
        self.desk.set_context(talk.id, {"question": found.question, "title": title})
        return self.done(
            talk, "answer", worded.text, found.question, found=found, citations=worded.citations
        )

    def hand_over(
        self,
        talk: Session,
        text: str,
        reason: Reason,
        line: str,
        found: Understood | None = None,
    ) -> Reply:
        """A person called, told why and what was said so far."""
        if talk.state == "waiting":
            line = self.rules.still_waiting if reason in ("unknown", "asked") else line
        opened = self.desk.open_handover(talk.id, reason, text, self.summary(talk, found))
        if talk.state == "bot":
            self.tell(opened)
        return self.done(
            talk, "handover", line, text, reason=reason, found=found, handover=opened.id
        )

    def done(
        self,
        talk: Session,
        action: Action,
        text: str,
        question: str,
        *,
        reason: Reason | None = None,
        found: Understood | None = None,
        citations: tuple = (),
        handover: int | None = None,
    ) -> Reply:
        """The reply, kept in the session and in the audit log."""
        reply = Reply(
            text=text,
            action=action,
            session=talk.id,
            turn=0,
            question=question,
            certainty=found.certainty if found else 0.0,
            reason=reason,
            citations=citations,
            suggestions=suggested(found) if action == "handover" else (),
            handover=handover,
        )
        turn = self.desk.say(talk.id, "bot", text, reply.to_dict()) if text else 0
        kept = {**reply.to_dict(), "turn": turn}
        self.desk.log(talk.id, "reply", kept)
        return Reply(**{**vars(reply), "turn": turn})

    # Handing over

    def summary(self, talk: Session, found: Understood | None) -> str:
        """What the person who takes over should know, in a few lines."""
        lines = [
            f"{'客户' if turn.role == 'user' else '机器人'}：{turn.text[:120]}"
            for turn in self.desk.turns(talk.id)[-LINES_FOR_AGENT:]
        ]
        if near := suggested(found):
            lines.append("可能相关：" + "；".join(near))
        return "\n".join(lines)

    def tell(self, opened: HandOver) -> None:
        """Tell hook and webhook; a webhook that fails is logged and disturbs nobody."""
        if self.on_handover is not None:
            self.on_handover(opened)
        if (hook := self.webhook) is not None:
            if self.messengers is None:
                self.messengers = ThreadPoolExecutor(1, thread_name_prefix="chatglm-webhook")
            self.messengers.submit(self.post, hook, opened)

    def post(self, hook: Webhook, opened: HandOver) -> None:
        """Send a hand-over to the webhook."""
        event: Mapping[str, object] = {"event": "handover", **opened.to_dict()}
        try:
            hook.post(event)
        except ConnectionError as error:
            self.desk.log(opened.session, "webhook failed", {"error": str(error)})

    def feedback(self, reply: Reply | int, value: int, note: str = "") -> None:
        """👍 (1) or 👎 (-1) for a reply."""
        self.desk.feedback(reply.turn if isinstance(reply, Reply) else reply, value, note)

    def close(self) -> None:
        """Wait for the webhook and give the connections back."""
        if self.messengers is not None:
            self.messengers.shutdown()
        self.desk.close()
        self.base.close()

    def __enter__(self) -> CustomerService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def suggested(found: Understood | None) -> tuple[str, ...]:
    """Questions of the base that come near."""
    if found is None or found.certainty < NEAR:
        return ()
    questions = [hit.chunk.question for hit in found.hits if hit.chunk.question]
    return tuple(dict.fromkeys(questions))[:NUM_SUGGESTED]
