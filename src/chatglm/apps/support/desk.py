"""The desk: sessions with their turns, hand-overs to people, feedback, and the audit log."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from chatglm.apps.knowledge.database import Row, open_database
from chatglm.apps.knowledge.extract import plain_text
from chatglm.apps.knowledge.home import location_of

State = Literal["bot", "waiting", "human"]
Role = Literal["user", "bot", "agent"]
_TABLES = """
CREATE TABLE IF NOT EXISTS session(
    id TEXT PRIMARY KEY, state TEXT NOT NULL CHECK (state IN ('bot', 'waiting', 'human')),
    started TEXT NOT NULL, context TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS turn(
    id {number}, session TEXT NOT NULL REFERENCES session, role TEXT NOT NULL, text TEXT NOT NULL,
    at TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS turn_session ON turn(session, id);
CREATE TABLE IF NOT EXISTS handover(
    id {number}, session TEXT NOT NULL REFERENCES session, reason TEXT NOT NULL,
    question TEXT NOT NULL, summary TEXT NOT NULL, opened TEXT NOT NULL, agent TEXT NOT NULL,
    closed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS feedback(
    turn BIGINT PRIMARY KEY REFERENCES turn, value INTEGER NOT NULL, note TEXT NOT NULL,
    at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS audit(
    id {number}, at TEXT NOT NULL, session TEXT NOT NULL, event TEXT NOT NULL, data TEXT NOT NULL)
"""
MOST_ID = 128


@dataclass(frozen=True, kw_only=True)
class Session:
    """A talk. state: who has it. context: what follow-up questions refer to."""

    id: str
    state: State
    started: str
    context: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Something said. data: what a reply rested on."""

    id: int
    session: str
    role: Role
    text: str
    at: str
    data: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """A talk that a person shall take. agent: who has taken it; closed: when it was done."""

    id: int
    session: str
    reason: str
    question: str
    summary: str
    opened: str
    agent: str
    closed: str

    @property
    def state(self) -> Literal["open", "taken", "closed"]:
        """How far it is."""
        return "closed" if self.closed else "taken" if self.agent else "open"

    def to_dict(self) -> dict[str, object]:
        """As JSON says it."""
        return {
            "id": self.id,
            "session": self.session,
            "state": self.state,
            "reason": self.reason,
            "question": self.question,
            "summary": self.summary,
            "opened": self.opened,
            "agent": self.agent,
            "closed": self.closed,
        }


class Desk:
    """What is kept of talks, in a SQLite file of its own or in the base's PostgreSQL schema."""

    def __init__(self, location: str) -> None:
        self.database = open_database(location)
        self.database.create(_TABLES)

    @staticmethod
    def of(base: str) -> Desk:
        """The desk that belongs to a knowledge base's name, path or address."""
        location = location_of(base, "support")
        if location == base and "://" not in base:
            path = Path(base)
            location = str(path.with_name(f"{path.stem}.support{path.suffix}"))
        return Desk(location)

    # Sessions

    def session(self, name: str | None = None) -> Session:
        """The session of a name, begun where there is none; None for a new one."""
        name = name or secrets.token_urlsafe(16)
        if len(name) > MOST_ID or not name.isprintable():
            raise ValueError(f"a session's name has 1 to {MOST_ID} printable characters")
        values = (name, "bot", now(), "{}")
        self.database.rows(
            "INSERT INTO session(id, state, started, context) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            values,
        )
        return self.known_session(name)

    def known_session(self, name: str) -> Session:
        """A session that is there; ValueError otherwise."""
        found = self.database.rows(
            "SELECT id, state, started, context FROM session WHERE id = ?", (name,)
        )
        if not found:
            raise ValueError(f"there is no session {name[:40]!r}")
        row = found[0]
        return Session(
            id=str(row[0]),
            state=cast(State, row[1]),
            started=str(row[2]),
            context=json.loads(str(row[3])),
        )

    def set_state(self, session: str, state: State) -> None:
        """Give a session to the bot, to the queue or to a person."""
        assert state in get_args(State)
        self.database.rows("UPDATE session SET state = ? WHERE id = ?", (state, session))

    def set_context(self, session: str, context: Mapping[str, str]) -> None:
        """Keep what follow-up questions refer to."""
        self.database.rows(
            "UPDATE session SET context = ? WHERE id = ?", (text_of(context), session)
        )

    def say(
        self, session: str, role: Role, text: str, data: Mapping[str, object] | None = None
    ) -> int:
        """Keep a turn; its number."""
        made = self.database.rows(
            "INSERT INTO turn(session, role, text, at, data) VALUES (?, ?, ?, ?, ?) RETURNING id",
            (session, role, text, now(), text_of(data or {})),
        )
        return int(str(made[0][0]))

    def turns(self, session: str, after: int = 0) -> list[Turn]:
        """What was said in a session, after a turn."""
        return [
            Turn(
                id=int(str(row[0])),
                session=session,
                role=cast(Role, row[1]),
                text=str(row[2]),
                at=str(row[3]),
                data=json.loads(str(row[4])),
            )
            for row in self.database.rows(
                "SELECT id, role, text, at, data FROM turn WHERE session = ? AND id > ? "
                "ORDER BY id",
                (session, after),
            )
        ]

    # Hand-overs

    def open_handover(self, session: str, reason: str, question: str, summary: str) -> HandOver:
        """Put a session into the queue, or find where it stands there already."""
        with self.database.transaction():
            there = self.handovers(session=session)
            if there:
                return there[0]
            made = self.database.rows(
                "INSERT INTO handover(session, reason, question, summary, opened, agent, closed) "
                "VALUES (?, ?, ?, ?, ?, '', '') RETURNING id",
                (session, reason, question, summary, now()),
            )
            self.set_state(session, "waiting")
            number = int(str(made[0][0]))
            self.log(session, "handover", {"handover": number, "reason": reason})
        return self.handover(number)

    def handovers(self, *, session: str | None = None, closed: bool = False) -> list[HandOver]:
        """Those that are not done, oldest first; closed: the done ones too."""
        conditions, values = ["1 = 1"], []
        if session is not None:
            conditions.append("session = ?")
            values.append(session)
        if not closed:
            conditions.append("closed = ''")
        rows = self.database.rows(
            "SELECT id, session, reason, question, summary, opened, agent, closed FROM handover "
            f"WHERE {' AND '.join(conditions)} ORDER BY id",
            values,
        )
        return [handover_of(row) for row in rows]

    def handover(self, number: int) -> HandOver:
        """One hand-over; ValueError where there is none of this number."""
        rows = self.database.rows(
            "SELECT id, session, reason, question, summary, opened, agent, closed FROM handover "
            "WHERE id = ?",
            (number,),
        )
        if not rows:
            raise ValueError(f"there is no hand-over {number}; see chatglm support inbox")
        return handover_of(rows[0])

    def take(self, number: int, agent: str) -> HandOver:
        """Give a hand-over to a person; a second one is told who has it."""
        with self.database.transaction():
            found = self.handover(number)
            if found.closed:
                raise ValueError(f"hand-over {number} was closed at {found.closed}")
            if found.agent and found.agent != agent:
                raise ValueError(f"hand-over {number} was taken by {found.agent}")
            if not found.agent:
                self.database.rows("UPDATE handover SET agent = ? WHERE id = ?", (agent, number))
                self.set_state(found.session, "human")
                self.log(found.session, "taken", {"handover": number, "agent": agent})
        return self.handover(number)

    def answer(self, number: int, text: str, agent: str) -> Turn:
        """Say something as the person who has, or hereby takes, a hand-over."""
        if not text.strip():
            raise ValueError("an answer needs some text")
        found = self.take(number, agent)
        turn = self.say(found.session, "agent", plain_text(text), {"agent": agent})
        self.log(found.session, "agent", {"turn": turn, "agent": agent})
        return self.turns(found.session, turn - 1)[0]

    def close_handover(self, number: int, agent: str) -> HandOver:
        """Give the talk back to the bot."""
        with self.database.transaction():
            found = self.handover(number)
            if not found.closed:
                self.database.rows("UPDATE handover SET closed = ? WHERE id = ?", (now(), number))
                self.set_state(found.session, "bot")
                self.log(found.session, "closed", {"handover": number, "agent": agent})
        return self.handover(number)

    # Feedback and audit

    def feedback(self, turn: int, value: int, note: str = "", session: str | None = None) -> None:
        """Keep a 👍 (1) or 👎 (-1) for a reply; the latest counts."""
        if value not in (1, -1):
            raise ValueError(f"feedback is 1 or -1, got {value}")
        found = self.database.rows("SELECT session, role FROM turn WHERE id = ?", (turn,))
        is_other = session is not None and found and found[0][0] != session
        if not found or found[0][1] == "user" or is_other:
            raise ValueError(f"there is no reply {turn} to judge")
        self.database.rows(
            "INSERT INTO feedback(turn, value, note, at) VALUES (?, ?, ?, ?) ON CONFLICT (turn) "
            "DO UPDATE SET value = excluded.value, note = excluded.note, at = excluded.at",
            (turn, value, plain_text(note[:2000]), now()),
        )
        self.log(
            str(found[0][0]),
            "feedback",
            {"turn": turn, "value": value, "note": plain_text(note[:2000])},
        )

    def log(self, session: str, event: str, data: Mapping[str, object]) -> None:
        """Add to the audit log; nothing ever changes or leaves it."""
        self.database.rows(
            "INSERT INTO audit(at, session, event, data) VALUES (?, ?, ?, ?)",
            (now(), session, event, text_of(data)),
        )

    def audit(self, session: str | None = None) -> Iterator[dict[str, object]]:
        """The audit log, oldest first; each record is one line of JSON."""
        last = 0
        while rows := self.database.rows(
            "SELECT id, at, session, event, data FROM audit WHERE id > ? ORDER BY id LIMIT 1000",
            (last,),
        ):
            for row in rows:
                last = int(str(row[0]))
                if session in (None, row[2]):
                    record = {"id": last, "at": row[1], "session": row[2], "event": row[3]}
                    yield record | json.loads(str(row[4]))

    def counts(self) -> dict[str, int]:
        """How many sessions, open hand-overs, thumbs up and down."""
        found = self.database.rows(
            "SELECT (SELECT count(*) FROM session), "
            "(SELECT count(*) FROM handover WHERE closed = ''), "
            "(SELECT count(*) FROM feedback WHERE value > 0), "
            "(SELECT count(*) FROM feedback WHERE value < 0)"
        )[0]
        names = ("sessions", "open_handovers", "thumbs_up", "thumbs_down")
        return {name: int(str(count)) for name, count in zip(names, found, strict=True)}

    def close(self) -> None:
        """Give the connections back."""
        self.database.close()


def now() -> str:
    """The time in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def text_of(data: Mapping[str, object]) -> str:
    """JSON that keeps Chinese as it is."""
    return json.dumps(data, ensure_ascii=False)


def handover_of(row: Row) -> HandOver:
    """A hand-over from its row."""
    return HandOver(
        id=int(str(row[0])),
        session=str(row[1]),
        reason=str(row[2]),
        question=str(row[3]),
        summary=str(row[4]),
        opened=str(row[5]),
        agent=str(row[6]),
        closed=str(row[7]),
    )
