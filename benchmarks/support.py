"""Customer service end to end on held-out questions: right, wrong, handed over.

    python -m benchmarks.support FAQ_DIRECTORY

FAQ_DIRECTORY has NAME.jsonl bases and test_questions.jsonl, whose lines without an answer ought to
be handed over. Every question opens a session of its own. A reply is right where it holds the whole
answer of the entry meant; a citation is good where its quote stands in the chunk that it names.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from chatglm.apps.knowledge import KnowledgeBase
from chatglm.apps.knowledge.measure import read_questions
from chatglm.apps.support import CustomerService, Desk
from chatglm.apps.support.measure import Outcome, tried

COLUMNS = (
    "right",
    "wrong",
    "handed over",
    "answer among suggestions",
    "refused",
    "answered anyway",
    "bad citations",
)


def main() -> None:
    """Print a row per base and their sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    total = Outcome()
    columns = " | ".join(COLUMNS)
    print(f"| base | threshold | {columns} |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for path in sorted(folder.glob("*.jsonl")):
        if path.name == "test_questions.jsonl":
            continue
        with (
            tempfile.TemporaryDirectory() as home,
            KnowledgeBase.create(f"{home}/base.sqlite") as base,
        ):
            base.add([path])
            service = CustomerService(base, desk=Desk(f"{home}/desk.sqlite"))
            outcome = tried(service, read_questions(folder / "test_questions.jsonl", path.stem))
            service.desk.close()
            show(path.stem, f"{base.threshold:.2f}", outcome)
        total += outcome
    show("all", "", total)


def show(name: str, threshold: str, outcome: Outcome) -> None:
    """Print a row."""
    counts = " | ".join(
        str(count)
        for count in (
            outcome.right,
            outcome.wrong,
            outcome.handed_over,
            outcome.suggested,
            outcome.refused,
            outcome.answered_anyway,
            outcome.bad_citations,
        )
    )
    print(f"| {name} | {threshold} | {counts} |")


if __name__ == "__main__":
    main()
