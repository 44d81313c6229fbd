"""`chatglm support`: customer service from a knowledge base, and the desk of those who help it."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import error_line, note, paint, say
from chatglm.cli.options import CommandError, add_model_flags, has_input, load_model, read_stdin
from chatglm.cli.terminal import make_reader

if TYPE_CHECKING:
    from chatglm.apps.support import CustomerService, Desk, HandOver, Reply
    from chatglm.apps.support.wording import Wording

DEMO, INBOX, LOG, RULES = "demo", "inbox", "log", "rules"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "support",
        help=say("customer service from a knowledge base", "基于知识库的智能客服"),
        description=say(
            "Answer from a base and from nothing else, cite, or hand over to a person. "
            "`support demo` opens two examples, `support inbox` the hand-overs, `support log` "
            "writes the audit log, `support rules` keeps the rules that are given with the base.",
            "只依据知识库回答并注明出处，不知道时转人工。support demo 打开示例，"
            "support inbox 处理转人工，support log 导出审计日志，"
            "support rules 把给出的规则存入知识库。",
        ),
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="QUESTION",
        help=say("a question; none for a talk; or demo, inbox, log, rules", "问题；不填则进入对话"),
    )
    parser.add_argument("--kb", metavar="NAME", help=say("the knowledge base", "知识库名称"))
    parser.add_argument("--session", help=say("go on with this session", "继续该会话"))
    parser.add_argument("--json", action="store_true", help=say("replies as JSON", "输出 JSON"))
    add_rules(parser)
    add_desk(parser)
    add_model_flags(parser)
    parser.set_defaults(run=run)


def add_rules(parser: argparse.ArgumentParser) -> None:
    """What the operator decides."""
    group = parser.add_argument_group(say("rules", "规则"))
    group.add_argument(
        "--wording",
        choices=("quote", "model"),
        help=say(
            "documents as they stand, or worded by the model and held to them; default: model "
            "where --model is given",
            "原文引用，或由模型组织语言（受资料约束）；给出 --model 时默认 model",
        ),
    )
    group.add_argument(
        "--topics",
        type=Path,
        metavar="FILE",
        help=say("what no machine may answer, a line each", "必须转人工的话题，每行一个"),
    )
    group.add_argument(
        "--blocked-words",
        type=Path,
        metavar="FILE",
        help=say("what neither side may say, a line each", "敏感词，每行一个"),
    )
    group.add_argument(
        "--webhook",
        metavar="URL",
        help=say(
            "told of hand-overs, signed with $CHATGLM_WEBHOOK_SECRET",
            "转人工通知地址（用 $CHATGLM_WEBHOOK_SECRET 签名）",
        ),
    )
    group.add_argument(
        "--threshold",
        metavar="0…1|auto",
        help=say(
            "certainty to answer; auto: the one found from the base's questions",
            "作答所需确定度；auto 为按知识库自身问题求得的值",
        ),
    )
    group.add_argument("--source", action="append", default=[], help=say("only these", "限定文档"))
    group.add_argument("--tag", action="append", default=[], help=say("only these", "限定分类"))


def add_desk(parser: argparse.ArgumentParser) -> None:
    """What a person at the desk does, and how the demo opens."""
    group = parser.add_argument_group(say("desk (support inbox)", "人工坐席（support inbox）"))
    group.add_argument("--show", type=int, metavar="N", help=say("a talk so far", "查看对话"))
    group.add_argument(
        "--reply", nargs=2, metavar=("N", "TEXT"), help=say("answer a hand-over", "回复客户")
    )
    group.add_argument("--close", type=int, metavar="N", help=say("back to the bot", "结束人工"))
    group.add_argument("--agent", default="", help=say("your name", "坐席姓名"))
    group.add_argument("--port", type=int, default=0, help=say("of the demo", "示例网页端口"))
    group.add_argument(
        "--terminal", action="store_true", help=say("the demo here", "示例在终端中打开")
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer, or do what the first word says."""
    if arguments.words[:1] == [DEMO]:
        from chatglm.cli.support_demo import run_demo

        return run_demo(arguments)
    if not arguments.kb:
        raise CommandError("name the base: chatglm support --kb NAME; or try: chatglm support demo")
    if arguments.words == [INBOX]:
        return run_inbox(arguments)
    if arguments.words == [LOG]:
        return run_log(arguments)
    if arguments.words == [RULES]:
        from chatglm.cli.support_rules import run_rules

        return run_rules(arguments)
    with make_service(arguments, arguments.kb) as service:
        return serve_words(service, arguments)


def make_service(arguments: argparse.Namespace, kb: str) -> CustomerService:
    """The service that the flags describe."""
    from chatglm.apps.knowledge import Filter
    from chatglm.apps.support import CustomerService
    from chatglm.apps.support.webhook import Webhook
    from chatglm.cli.kb import opened
    from chatglm.cli.support_rules import AUTO, given_rules, given_threshold

    threshold = given_threshold(arguments)
    base = opened(kb)
    wording: Wording = arguments.wording or ("model" if arguments.model else "quote")
    return CustomerService(
        base,
        model=load_model(arguments) if wording == "model" else None,
        wording=wording,
        rules=given_rules(arguments),
        only=Filter(sources=tuple(arguments.source), tags=tuple(arguments.tag)),
        webhook=Webhook.of(arguments.webhook) if arguments.webhook else None,
        threshold=base.calibrated_threshold if threshold == AUTO else threshold,
    )


def serve_words(service: CustomerService, arguments: argparse.Namespace) -> int:
    """One question, the lines of a pipe, or a talk."""
    if arguments.words and arguments.words != ["-"]:
        last = last_heard(service.desk, arguments.session)
        reply = service.ask(" ".join(arguments.words), arguments.session)
        if not arguments.json:
            hear(service.desk, reply.session, last)
        show(reply, as_json=arguments.json)
        return 0
    if arguments.words == ["-"] or (not sys.stdin.isatty() and has_input()):
        session = arguments.session
        for line in read_stdin().splitlines():
            if line.strip():
                reply = service.ask(line, session)
                session = reply.session
                show(reply, as_json=arguments.json)
        return 0
    if not sys.stdin.isatty():
        raise CommandError('ask something, e.g. chatglm support --kb shop "怎么退货"')
    talk(service, arguments)
    return 0


def show(reply: Reply, *, as_json: bool) -> None:
    """Print a reply with its sources."""
    if as_json:
        print(json.dumps(reply.to_dict(), ensure_ascii=False), flush=True)
        return
    if reply.action == "person":
        note(say("(passed on to the person who has this talk)", "（已转达人工客服）"))
    if reply.text:
        print(reply.text)
    for citation in reply.citations:
        where = f"{citation.source} {citation.place}".strip()
        print(paint(f"[{citation.number}] {citation.title} · {where}", "dim", sys.stdout))
    if reply.suggestions:
        print(say("Perhaps you mean (its number is enough):", "您可能想问（回复序号即可）："))
        for number, suggestion in enumerate(reply.suggestions, start=1):
            print(f"  {number}. {suggestion}")
    sys.stdout.flush()


def talk(service: CustomerService, arguments: argparse.Namespace) -> None:
    """Ask and answer until the end of input; what a person says appears with the next line."""
    read, session, last, heard = make_reader(), arguments.session, 0, 0
    note(
        say(
            "Ask; + and - judge the last answer, /new begins again, Ctrl-D leaves.",
            "直接提问；+ 或 - 评价上一条回答，/new 新会话，Ctrl-D 退出。",
        )
    )
    while True:
        try:
            text = read("> ").strip()
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return
        try:
            if text == "/exit":
                return
            if text == "/new":
                session, last = None, 0
            elif text in ("+", "-"):
                service.feedback(last, 1 if text == "+" else -1)
                note(say("thank you", "谢谢评价"))
            elif text:
                reply = service.ask(text, session)
                session, last = reply.session, reply.turn or last
                heard = hear(service.desk, session, heard)
                show(reply, as_json=arguments.json)
        except ValueError as error:
            print(error_line(str(error)), file=sys.stderr)


def last_heard(desk: Desk, session: str | None) -> int:
    """The last turn of customer and bot: what people said after it is news."""
    turns = desk.turns(session) if session else []
    return max((turn.id for turn in turns if turn.role != "agent"), default=0)


def hear(desk: Desk, session: str, after: int) -> int:
    """Show what people at the desk have said since a turn; the last turn there is."""
    turns = desk.turns(session, after)
    for turn in turns:
        if turn.role == "agent":
            print(paint(f"{turn.data.get('agent')}：{turn.text}", "cyan", sys.stdout))
    return turns[-1].id if turns else after


def run_inbox(arguments: argparse.Namespace) -> int:
    """List hand-overs, show one, answer it, close it."""
    from chatglm.apps.support import Desk

    desk, agent = Desk.of(arguments.kb), arguments.agent or user_name()
    if arguments.reply is not None:
        number, text = arguments.reply
        if not number.isdigit():
            raise CommandError(f"--reply takes the number of a hand-over, got {number!r}")
        desk.answer(int(number), text, agent)
    if arguments.close is not None:
        desk.close_handover(arguments.close, agent)
    if arguments.show is not None:
        for turn in desk.turns(desk.handover(arguments.show).session):
            print(f"{turn.at}  {turn.role}: {turn.text}")
    elif arguments.reply is None and arguments.close is None:
        found = desk.handovers()
        for one in found:
            print(json.dumps(one.to_dict(), ensure_ascii=False) if arguments.json else line(one))
        if not found:
            note(say("nobody waits", "没有待处理的转人工"))
    desk.close()
    return 0


def line(one: HandOver) -> str:
    """A hand-over in a line of the list."""
    taken = f" ({one.agent})" if one.agent else ""
    return f"{one.id}\t{one.state}{taken}\t{one.opened}\t{one.reason}\t{one.question[:60]}"


def user_name() -> str:
    """Who is at this terminal."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "agent"


def run_log(arguments: argparse.Namespace) -> int:
    """Write the audit log as JSON lines."""
    from chatglm.apps.support import Desk

    desk = Desk.of(arguments.kb)
    for record in desk.audit(arguments.session):
        print(json.dumps(record, ensure_ascii=False))
    desk.close()
    return 0
