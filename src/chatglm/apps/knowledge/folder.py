"""The files that an argument of `kb add` names, and no file beyond."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from chatglm.apps.knowledge.extract import is_known

_STEP = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file to add under a name; `problem` says why it is left out."""

    source: str
    path: Path
    problem: str = ""


def found_in(given: Iterable[str | os.PathLike[str]]) -> Iterator[Found]:
    """The files given, and those of folders given, by name."""
    for item in given:
        path = Path(item)
        if path.is_dir():
            yield from found_below(path)
        elif path.is_file():
            yield Found(source=path.name, path=path)
        elif path.exists():
            raise ValueError(f"{path} is neither a file nor a directory")
        else:
            raise FileNotFoundError(f"there is no file {path}; check its name")


def found_below(folder: Path) -> Iterator[Found]:
    """The known files of a folder, named `folder/sub/file`; links that leave it are left out."""
    root = folder.resolve()
    for here, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(names)]:
            path = Path(here, name)
            source = str(PurePosixPath(root.name, path.relative_to(root).as_posix()))
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                yield Found(source=source, path=path, problem="it is a link that leaves the folder")
            elif path.is_file() and not name.startswith((".", "~$")) and is_known(path):
                yield Found(source=source, path=path)


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_STEP):
            sha.update(piece)
    return sha.hexdigest()


def upload_name(name: str) -> str:
    """A file name from outside, where it is nothing but a name; ValueError otherwise."""
    is_plain = name == name.strip() and 0 < len(name) <= 200 and name.isprintable()
    if not is_plain or name.startswith(".") or any(c in name for c in '/\\:*?"<>|'):
        raise ValueError(
            f"{name[:80]!r} is no plain file name; send one without directories or special signs"
        )
    return name
