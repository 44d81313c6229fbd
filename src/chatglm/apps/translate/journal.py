"""What a long translation has done so far, on disk line by line, so that a kill loses little."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from chatglm.apps.translate.unit import Result


class Journal:
    """Finished units beside the output file; its first line says of which work they are."""

    def __init__(self, output: str | os.PathLike[str], work: Mapping[str, object]) -> None:
        target = Path(output)
        self.path = target.with_name(f"{target.name}.journal")
        self.key = hashlib.sha256(
            json.dumps(work, sort_keys=True, ensure_ascii=False).encode()
        ).hexdigest()
        self.done: dict[str, Result] = {}
        self.file = self.open()

    def open(self) -> IO[str]:
        """The file, locked and at its end, after reading what is of this work."""
        file = self.path.open("a+", encoding="utf-8")
        try:
            lock(file, self.path)
        except ValueError:
            file.close()
            raise
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        whole = 0
        for number, line in enumerate(lines):
            if not line.endswith("\n") or not self.take(line, is_first=number == 0):
                break
            whole += len(line.encode())
        file.seek(0)
        file.truncate(whole)  # a line that a kill has torn, or another work's
        file.seek(0, os.SEEK_END)
        if not whole:
            self.done.clear()
            self.write(file, {"work": self.key})
        return file

    def take(self, line: str, *, is_first: bool) -> bool:
        """Whether a line is whole and of this work; what it says is remembered."""
        try:
            row = json.loads(line)
        except ValueError:
            return False
        if is_first:
            return isinstance(row, dict) and row.get("work") == self.key
        self.done[row["source"]] = Result(
            text=row["text"], origin=row["origin"], notes=tuple(row["notes"])
        )
        return True

    def add(self, source: str, result: Result) -> None:
        """Write a unit down; it is on the disk when this returns."""
        self.write(
            self.file,
            {
                "source": source,
                "text": result.text,
                "origin": result.origin,
                "notes": list(result.notes),
            },
        )

    def write(self, file: IO[str], row: Mapping[str, object]) -> None:
        """One line, on the disk."""
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())

    def close(self, *, finished: bool) -> None:
        """Close the journal; it is not needed any more once the output is written."""
        if finished:
            self.path.unlink(missing_ok=True)
        self.file.close()


def lock(file: IO[str], path: Path) -> None:
    """Hold the file for this process; a ValueError where another has it."""
    try:
        import fcntl
    except ImportError:  # Windows opens no file twice for writing
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(
            f"{path} is in use by another process; wait for it, or give another --output"
        ) from error
