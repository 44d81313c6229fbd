"""The conversation loop and its /commands."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import error_line, note, paint, say
from chatglm.cli.output import speed
from chatglm.cli.terminal import Reader
from chatglm.messages import Message

if TYPE_CHECKING:
    from chatglm.generation.chat import ChatGLM, Options
    from chatglm.generation.remote import RemoteChatGLM

NUMBERS: dict[str, type[int] | type[float]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "max_new_tokens": int,
    "seed": int,
}


@dataclass
class Conversation:
    """A model, the settings of its replies and what was said so far."""

    model: ChatGLM | RemoteChatGLM
    options: Options
    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def with_system(self) -> list[Message]:
        """The messages, with the system prompt first where there is one."""
        first = [Message(role="system", content=self.system)] if self.system else []
        return [*first, *self.messages]


def talk(conversation: Conversation, read: Reader, *, verbose: bool) -> None:
    """Ask and answer until the end of input or /exit."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print(
            say(
                "Type to talk; /help lists the commands, Ctrl-C stops a reply, Ctrl-D leaves.",
                "直接输入即可对话；/help 查看命令，Ctrl-C 停止回复，Ctrl-D 退出。",
            )
        )
    while True:
        try:
            text = read_message(read)
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            if is_terminal:
                print()
            return
        if not text.strip():
            continue
        try:
            if text.startswith("/"):
                if not obey(conversation, text, verbose=verbose):
                    return
            else:
                ask(conversation, text, verbose=verbose)
        except (ValueError, OSError) as error:
            print(error_line(str(error)), file=sys.stderr)


def read_message(read: Reader) -> str:
    '''One message: a line, lines that end in a backslash, or all between two lines of """.'''
    line = read("> ")
    if line.strip() == '"""':
        lines = []
        while (line := read("… ")).strip() != '"""':
            lines.append(line)
        return "\n".join(lines)
    parts = []
    while line.endswith("\\"):
        parts.append(line[:-1])
        line = read("… ")
    return "\n".join([*parts, line])


def ask(conversation: Conversation, text: str, *, verbose: bool) -> None:
    """Send a message and show the reply; what fails leaves the conversation as it was."""
    conversation.messages.append(Message(role="user", content=text))
    try:
        reply = answer(conversation, verbose=verbose)
    except BaseException:
        conversation.messages.pop()
        raise
    conversation.messages.append(Message(role="assistant", content=reply))


def answer(conversation: Conversation, *, verbose: bool) -> str:
    """The reply to the messages so far, shown as it comes; Ctrl-C ends it where it is."""
    stream = conversation.model.stream_messages(conversation.with_system(), **conversation.options)
    pieces: list[str] = []
    start, first = time.perf_counter(), None
    with closing(stream):
        try:
            for piece in stream:
                first = first or time.perf_counter() - start
                pieces.append(piece)
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            sys.stdout.write(paint(say(" [stopped]", " [已停止]"), "dim", sys.stdout))
    print(flush=True)
    if verbose:
        note(speed(stream, first or 0.0, time.perf_counter() - start))
    return "".join(pieces)


def obey(conversation: Conversation, line: str, *, verbose: bool) -> bool:
    """Carry out a /command; False for /exit."""
    name, _, rest = line[1:].partition(" ")
    rest = rest.strip()
    if name in ("exit", "quit", "bye"):
        return False
    if name == "retry":
        retry(conversation, verbose=verbose)
    elif name == "clear":
        conversation.messages.clear()
        note(say("the conversation is empty now", "对话已清空"))
    elif name == "system":
        conversation.system = rest or None
        note(say(f"system prompt: {rest or 'none'}", f"系统提示词：{rest or '无'}"))
    elif name == "set":
        change(conversation, rest)
    elif name in ("save", "load"):
        if not rest:
            raise ValueError(f"/{name} needs a file name, e.g. /{name} talk.json")
        (save if name == "save" else load)(conversation, Path(rest).expanduser())
    elif name == "help":
        note("\n".join(f"  {command:<22} {say(*meaning)}" for command, meaning in _HELP))
    else:
        raise ValueError(f"there is no command /{name}; /help lists them")
    return True


def retry(conversation: Conversation, *, verbose: bool) -> None:
    """Ask the last message again."""
    if not conversation.messages:
        raise ValueError("there is nothing to retry; say something first")
    old = conversation.messages
    asked = max(i for i, message in enumerate(old) if message.role == "user")
    conversation.messages = old[:asked]
    try:
        ask(conversation, old[asked].content, verbose=verbose)
    except BaseException:
        conversation.messages = old
        raise


def change(conversation: Conversation, rest: str) -> None:
    """`/set NAME VALUE`, or show all settings."""
    from chatglm.generation.sampling import Sampling

    name, _, value = rest.partition(" ")
    name = name.replace("-", "_").replace("max_tokens", "max_new_tokens")
    if name:
        if name not in NUMBERS:
            raise ValueError(f"there is no setting {name!r}; choose from {', '.join(NUMBERS)}")
        try:
            number = NUMBERS[name](value)
        except ValueError:
            raise ValueError(f"{name} must be a number, got {value!r}") from None
        changed = {**conversation.options, name: number}
        stop = changed.pop("stop", ())
        Sampling(stop=tuple(stop), **changed)  # type: ignore[arg-type]
        conversation.options[name] = number  # type: ignore[literal-required]
    shown = ", ".join(f"{key} {value}" for key, value in conversation.options.items())
    note(shown or say("the model's own settings", "使用模型默认设置"))


def save(conversation: Conversation, path: Path) -> None:
    """Write the conversation as {"messages": […]}."""
    messages = [message.to_dict() for message in conversation.with_system()]
    path.write_text(
        json.dumps({"messages": messages}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    note(say(f"saved {len(messages)} messages", f"已保存 {len(messages)} 条消息"))


def load(conversation: Conversation, path: Path) -> None:
    """Read a conversation that /save wrote."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))["messages"]
        messages = [Message.from_dict(record) for record in records]
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; /save writes one") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path} is not a saved conversation; expected {{"messages": […]}}'
        ) from error
    systems = [message.content for message in messages if message.role == "system"]
    conversation.system = systems[-1] if systems else None
    conversation.messages = [message for message in messages if message.role != "system"]
    note(say(f"loaded {len(messages)} messages", f"已读入 {len(messages)} 条消息"))


_HELP = (
    ("/help", ("this list", "本列表")),
    ("/clear", ("forget the conversation", "清空对话")),
    ("/system TEXT", ("set the system prompt; none without TEXT", "设置系统提示词")),
    ("/set NAME VALUE", ("change a setting; without NAME show them", "修改或查看设置")),
    ("/save FILE", ("write the conversation", "保存对话")),
    ("/load FILE", ("read a conversation", "读入对话")),
    ("/retry", ("ask the last message again", "重新回答")),
    ("/exit", ("leave (or Ctrl-D)", "退出（或 Ctrl-D）")),
    ('"""', ("begin and end a message of several lines", "多行输入的开始与结束")),
)
