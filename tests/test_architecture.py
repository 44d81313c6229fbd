"""The floor plan: imports only go down, siblings of one layer do not see each other, files hold
one idea.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "chatglm"
LAYERS = [
    {"config", "presets", "messages", "prompt", "errors"},
    {"tokenizer", "model"},
    {"quantization", "adapters", "data", "parallel"},
    {"checkpoint"},
    {"generation", "training"},
    {"apps", "evaluate", "integrations"},
    {"serve"},
    {"cluster"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(SOURCE.rglob("*.py"))
# The package's own front door and `python -m` reach everywhere, lazily.
DOORS = {"__init__", "__main__"}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            found |= set(names) if module == "chatglm" else {module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("chatglm.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down_the_floor_plan(path: Path) -> None:
    here = part_of(path)
    if here in DOORS:
        return
    assert here in LEVEL, f"{here} is not on the floor plan"
    for other in imports_of(path) - {here, "__version__"}:
        assert LEVEL[other] < LEVEL[here] or (LEVEL[here] == 0 and LEVEL[other] == 0), (
            f"{path.name} of {here} imports {other}"
        )


def test_no_file_holds_more_than_one_idea() -> None:
    lengths = {p: len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {str(p): n for p, n in lengths.items() if n > 400} == {}


def test_no_pickle_and_no_code_from_outside() -> None:
    for path in FILES:
        text = path.read_text("utf-8")
        assert "import pickle" not in text or path.name == "read.py"  # names its error only
        for line in text.splitlines():
            if "torch.load(" in line:
                assert "weights_only=True" in line, f"{path}: {line}"
        assert "trust_remote_code" not in text
        assert "exec(" not in text.replace("regexec(", "")


def test_nothing_heavy_is_imported_at_the_top_of_light_parts() -> None:
    for part in ("messages.py", "config.py", "prompt.py", "errors.py", "tokenizer", "cli"):
        for path in [SOURCE / part] if part.endswith(".py") else (SOURCE / part).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            for node in tree.body:
                if isinstance(node, ast.Import):
                    assert not {a.name.split(".")[0] for a in node.names} & {"torch", "numpy"}
                if isinstance(node, ast.ImportFrom):
                    assert (node.module or "").split(".")[0] not in {"torch", "numpy"}
