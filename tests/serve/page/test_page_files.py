"""The page's folder: everything is in it, and nothing is fetched from elsewhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[3] / "src" / "chatglm" / "serve" / "web"
MODULES = sorted(WEB.glob("scripts/**/*.js"))
MOST_BYTES = 1_500_000


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in WEB.rglob("*") if path.is_file()) < MOST_BYTES


def test_the_vendored_files_are_the_published_ones() -> None:
    folder = WEB / "vendor" / "temml"
    listed = re.findall(
        r"^\| (\S+) \| .* \| ([0-9a-f]{64}) \|$", (folder / "README.md").read_text(), re.M
    )
    assert len(listed) == 3
    for name, digest in listed:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "MIT" in (folder / "LICENSE").read_text()
    assert "SIL OPEN FONT LICENSE" in (folder / "LICENSE-STIX").read_text()


def test_the_browser_is_told_of_every_module_at_once() -> None:
    html = (WEB / "index.html").read_text("utf-8")
    named = set(re.findall(r'(?:href|src)="(scripts/[^"]+)"', html))
    assert named == {path.relative_to(WEB).as_posix() for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_parses_html_or_runs_text(path: Path) -> None:
    text = path.read_text("utf-8")
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in text
    assert not re.search(r"""(?:import|fetch\(|from)\s*\(?["']https?:""", text)
    assert len(text.splitlines()) <= 400


def test_the_page_asks_nobody_else() -> None:
    for path in [WEB / "index.html", *WEB.glob("styles/*.css")]:
        for address in re.findall(
            r"""(?:href|src)="([^"]+)"|url\(["']?([^"')]+)""", path.read_text("utf-8")
        ):
            assert not "".join(address).startswith(("http", "//"))
