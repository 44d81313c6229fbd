"""Where bases live: a name under CHATGLM_HOME, a path of one's own, or an address."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAME = re.compile(r"[\w\u3400-\u9fff][\w\u3400-\u9fff-]{0,63}")


def home() -> Path:
    """The directory of everything that the applications keep."""
    return Path(os.environ.get("CHATGLM_HOME") or Path.home() / ".chatglm")


def location_of(name: str, folder: str = "kb") -> str:
    """The place of a base by its name, path (`./shop.sqlite`) or `postgresql://…#name`."""
    if name.startswith(("postgresql://", "postgres://")):
        return name
    if name.endswith((".sqlite", ".db")):
        return name
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a knowledge base; use letters, digits, - and _, or a path "
            "that ends in .sqlite"
        )
    return str(home() / folder / f"{name}.sqlite")


def names(folder: str = "kb") -> list[str]:
    """The names of the bases in CHATGLM_HOME."""
    return sorted(path.stem for path in (home() / folder).glob("*.sqlite"))
