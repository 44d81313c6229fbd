"""The conversation in a terminal: typed through a pty, and commands without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pty = pytest.importorskip("pty", reason="needs a system with pseudo terminals")
SOURCE = str(Path(__file__).resolve().parents[2] / "src")


class Terminal:
    """`chatglm chat` behind a pseudo terminal."""

    def __init__(self, toy: Path, home: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatglm", "chat", "--model", str(toy), "--max-tokens", "400"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: take_terminal(0),
            env={
                **os.environ,
                "PYTHONPATH": SOURCE,
                "CHATGLM_HOME": str(home),
                "LANG": "C.UTF-8",
                "LC_ALL": "C.UTF-8",
                "TERM": "dumb",
                "OMP_NUM_THREADS": "1",
                "CHATGLM_NATIVE": "0",  # else a reply is over before it can be stopped
            },
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self.seen = ""
        self.rest = b""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """All that came up to and with `text`."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come; got {self.seen!r}"
            try:
                self.rest += os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:
                break
            self.seen = self.rest.decode(errors="replace")
        before, found, _ = self.seen.partition(text)
        self.rest = self.rest[len((before + found).encode()) :]
        self.seen = self.rest.decode(errors="replace")
        return before + found


def take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(toy: Path, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(toy, tmp_path)
    try:
        terminal.wait_for("> ")
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.send_signal(signal.SIGKILL)
        terminal.process.wait()
        os.close(terminal.master)


def test_ctrl_c_stops_the_reply_and_ctrl_d_leaves(terminal: Terminal) -> None:
    terminal.type("你好\n")
    terminal.wait_for("\n")
    terminal.type("\x03")
    terminal.wait_for("> ")
    assert terminal.process.poll() is None
    terminal.type("\x03")
    terminal.wait_for("> ")
    assert terminal.process.poll() is None
    terminal.type("\x04")
    assert terminal.process.wait(30) == 0


def test_a_wide_character_can_be_taken_back(terminal: Terminal) -> None:
    terminal.type("/system 你好吗\x7f\x7f们\n")
    assert "你们" in terminal.wait_for("system prompt: 你们")


def test_commands_change_save_and_load_the_conversation(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("/set max_tokens 3\n")
    terminal.wait_for("max_new_tokens 3")
    terminal.type("你好\n")
    terminal.wait_for("> ")
    terminal.type("/retry\n")
    terminal.wait_for("> ")
    terminal.type(f"/save {tmp_path / 'talk.json'}\n")
    terminal.wait_for("saved 2 messages")
    terminal.type("/clear\n")
    terminal.wait_for("empty now")
    terminal.type(f"/load {tmp_path / 'talk.json'}\n")
    terminal.wait_for("loaded 2 messages")
    terminal.type("/nonsense\n")
    terminal.wait_for("there is no command /nonsense; /help lists them")
    terminal.type("/exit\n")
    assert terminal.process.wait(30) == 0
