"""`chatglm kb`: knowledge bases, made, filled, searched and measured."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.console import note, say
from chatglm.cli.options import INVALID_INPUT, CommandError

if TYPE_CHECKING:
    from chatglm.apps.knowledge import Added, Hit, KnowledgeBase
    from chatglm.apps.knowledge.records import Filter


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command with its verbs."""
    parser = commands.add_parser(
        "kb", help=say("knowledge bases: documents to answer from", "知识库：建立、导入、检索")
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar=say("VERB", "操作"))
    add_create(verbs)
    add_add(verbs)
    named(verbs, "list", run_list, ("bases, or a base's documents", "列出知识库或其中的文档"), "?")
    remove = named(verbs, "remove", run_remove, ("forget documents, or a base", "删除文档或知识库"))
    remove.add_argument("source", nargs="*", help=say("a document of `list`", "文档名"))
    remove.add_argument("--all", action="store_true", help=say("the whole base", "删除整个知识库"))
    add_search(verbs)
    export = named(verbs, "export", run_export, ("every chunk as JSON lines", "导出全部内容"))
    export.add_argument("-o", "--output", type=Path, help=say("a file to write", "输出文件"))
    evaluate = named(
        verbs, "eval", run_eval, ("recall and rank over questions", "用问题集评测检索与回答")
    )
    evaluate.add_argument(
        "questions", type=Path, help='{"question": …, "answer": … | null, "kb"?: …} a line'
    )
    evaluate.add_argument("--kb", help=say("only lines of this kb", "只用 kb 字段为此值的行"))
    evaluate.add_argument("--json", action="store_true")


def named(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    verb: str,
    run: Callable[[argparse.Namespace], int],
    meaning: tuple[str, str],
    nargs: str | None = None,
) -> argparse.ArgumentParser:
    """The parser of a verb on a base."""
    parser = verbs.add_parser(verb, help=say(*meaning))
    parser.add_argument(
        "name",
        nargs=nargs,
        metavar="NAME",
        help=say(
            "a name under $CHATGLM_HOME, a path ending in .sqlite, or postgresql://…#NAME",
            "名称（存于 $CHATGLM_HOME）、以 .sqlite 结尾的路径，或 postgresql://…#名称",
        ),
    )
    if verb == "list":
        parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser


def add_create(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`kb create`."""
    parser = named(verbs, "create", run_create, ("a new base", "新建知识库"))
    parser.add_argument(
        "--vectors",
        choices=("terms", "model", "service", "none"),
        default="terms",
        help=say(
            "what means the same is found by packaged vectors (terms), a model's .embed (model), "
            "an OpenAI-compatible service (service), or not at all",
            "语义检索用：内置词向量（terms）、模型的 .embed（model）、兼容接口（service）或不用",
        ),
    )
    parser.add_argument(
        "--model", default=os.environ.get("CHATGLM_MODEL", ""), help=say("its model", "所用模型")
    )
    parser.add_argument(
        "--url", default=os.environ.get("OPENAI_BASE_URL", ""), help="http://host:8000/v1"
    )
    parser.add_argument(
        "--synonyms",
        type=Path,
        metavar="FILE",
        help=say("a line of words each that mean the same", "同义词文件，每行一组"),
    )


def add_add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`kb add`."""
    parser = named(
        verbs,
        "add",
        run_add,
        ("take in files and folders; what has not changed is left alone", "导入文件或目录（增量）"),
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help=".md .txt .html .csv .xlsx .jsonl .docx .pdf"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help=say("forget documents whose files are gone", "删除源文件已不存在的文档"),
    )
    parser.add_argument("--max-megabytes", type=float, default=100.0)
    parser.add_argument("--json", action="store_true")


def add_search(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`kb search`."""
    parser = named(verbs, "search", run_search, ("what a question finds", "检索"))
    parser.add_argument("question", nargs="+")
    parser.add_argument("-k", type=int, default=5, help=say("how many", "结果数"))
    parser.add_argument("--way", choices=("joined", "lexical", "vector"), default="joined")
    parser.add_argument("--source", action="append", default=[], help=say("only these", "限定文档"))
    parser.add_argument("--tag", action="append", default=[], help=say("only these", "限定分类"))
    parser.add_argument("--json", action="store_true")


def opened(name: str) -> KnowledgeBase:
    """The base of a name; a sentence where there is none."""
    from chatglm.apps.knowledge import KnowledgeBase

    try:
        return KnowledgeBase(name)
    except FileNotFoundError as error:
        raise CommandError(str(error), 1) from error


def run_create(arguments: argparse.Namespace) -> int:
    """Make a base."""
    from chatglm.apps.knowledge import KnowledgeBase
    from chatglm.apps.knowledge.synonyms import read_groups

    groups = []
    if arguments.synonyms is not None:
        groups = read_groups(arguments.synonyms.read_text("utf-8-sig"))
    with KnowledgeBase.create(
        arguments.name, vectors=arguments.vectors, model_name=arguments.model, url=arguments.url
    ) as base:
        base.use_synonyms(groups)
        note(say(f"made {base.store.location}", f"已建立 {base.store.location}"))
    return 0


def run_add(arguments: argparse.Namespace) -> int:
    """Take in files; 3 where any could not be read."""
    with opened(arguments.name) as base:
        report = base.add(
            arguments.paths,
            prune=arguments.prune,
            max_bytes=int(arguments.max_megabytes * 1e6),
            progress=show_progress if sys.stderr.isatty() else None,
        )
        if arguments.json:
            print(json.dumps(vars(report), ensure_ascii=False))
        else:
            show_added(report)
            count, threshold = base.store.num_chunks(), base.threshold
            note(
                say(
                    f"{count} chunks; answers from a certainty of {threshold:.2f} on",
                    f"共 {count} 个片段；确定度达到 {threshold:.2f} 时作答",
                )
            )
    return INVALID_INPUT if report.failed else 0


def show_progress(source: str, done: int) -> None:
    """A line that is written over."""
    print(f"\r{source}: {done}", end="", file=sys.stderr, flush=True)


def show_added(report: Added) -> None:
    """What became of each file."""
    for mark, sources in (("+", report.new), ("~", report.changed), ("-", report.removed)):
        for source in sources:
            print(f"{mark} {source}")
    for source, reason in report.failed:
        shown = reason if reason.startswith(Path(source).name) else f"{source}: {reason}"
        note(f"! {shown}")
    if report.same:
        note(say(f"{len(report.same)} unchanged", f"{len(report.same)} 个文件未变"))


def run_list(arguments: argparse.Namespace) -> int:
    """Bases, or documents of one."""
    if arguments.name is None:
        from chatglm.apps.knowledge.home import names

        for name in names():
            with opened(name) as base:
                counts = {"name": name, "documents": len(base.documents())}
                counts["chunks"] = base.store.num_chunks()
            shown = f"{name}\t{counts['documents']}\t{counts['chunks']}"
            print(json.dumps(counts, ensure_ascii=False) if arguments.json else shown)
        return 0
    with opened(arguments.name) as base:
        for document in base.documents():
            if arguments.json:
                print(json.dumps(vars(document), ensure_ascii=False))
            else:
                print(f"{document.source}\t{document.num_chunks}\t{document.added}")
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Forget documents, or the whole base."""
    with opened(arguments.name) as base:
        if arguments.all == bool(arguments.source):
            raise CommandError("name documents to remove, or give --all for the whole base")
        if arguments.all:
            base.delete()
            note(say(f"removed {arguments.name}", f"已删除 {arguments.name}"))
            return 0
        known = {document.source for document in base.documents()}
        if unknown := [source for source in arguments.source if source not in known]:
            raise CommandError(
                f"there is no document {unknown[0]} in {arguments.name}; see chatglm kb list "
                f"{arguments.name}"
            )
        removed = base.remove(arguments.source)
    note(say(f"removed {removed}", f"已删除 {removed} 个文档"))
    return 0


def run_search(arguments: argparse.Namespace) -> int:
    """Print what is found."""
    if arguments.k < 1:
        raise CommandError(f"-k must be at least 1, got {arguments.k}")
    question = " ".join(arguments.question)
    with opened(arguments.name) as base:
        hits = base.search(question, arguments.k, way=arguments.way, only=chosen(arguments))
        certainty = base.certainty(question, hits) if arguments.way == "joined" else None
    if arguments.json:
        found = {"question": question, "certainty": certainty, "hits": [record(h) for h in hits]}
        print(json.dumps(found, ensure_ascii=False))
        return 0
    for number, hit in enumerate(hits, start=1):
        chunk = hit.chunk
        print(f"[{number}] {hit.score:.3f}  {chunk.title}  ({chunk.source} {chunk.place})")
        print(f"    {' '.join(chunk.text.split())[:160]}")
    if not hits:
        note(say("nothing found", "没有找到"))
    return 0


def chosen(arguments: argparse.Namespace) -> Filter:
    """The filter of the flags."""
    from chatglm.apps.knowledge import Filter

    return Filter(sources=tuple(arguments.source), tags=tuple(arguments.tag))


def record(hit: Hit) -> dict[str, object]:
    """A hit as JSON says it."""
    chunk = hit.chunk
    return {
        "score": round(hit.score, 4),
        "ranks": dict(hit.ranks),
        "title": chunk.title,
        "path": list(chunk.path),
        "text": chunk.text,
        "source": chunk.source,
        "place": chunk.place,
        "tag": chunk.tag,
    }


def run_export(arguments: argparse.Namespace) -> int:
    """Write every chunk."""
    with opened(arguments.name) as base:
        lines = (json.dumps(one, ensure_ascii=False) for one in base.export())
        if arguments.output is None:
            for line in lines:
                print(line)
            return 0
        with arguments.output.open("w", encoding="utf-8") as file:
            count = sum(bool(file.write(line + "\n")) for line in lines)
    note(say(f"{count} chunks in {arguments.output}", f"{count} 个片段写入 {arguments.output}"))
    return 0


def run_eval(arguments: argparse.Namespace) -> int:
    """Print recall by way, and what becomes of the questions."""
    import tempfile

    from chatglm.apps.knowledge.measure import measured, read_questions, recall
    from chatglm.apps.knowledge.search import WAYS
    from chatglm.apps.support import CustomerService, Desk
    from chatglm.apps.support.measure import tried

    with opened(arguments.name) as base, tempfile.TemporaryDirectory() as folder:
        asked = read_questions(arguments.questions, arguments.kb)
        ways = [way for way in WAYS if way != "vector" or base.embedder is not None]
        table = {way: vars(recall(measured(base, asked, way))) for way in ways}
        service = CustomerService(base, desk=Desk(str(Path(folder) / "desk.sqlite")))
        outcome = vars(tried(service, asked))
        service.desk.close()
    if arguments.json:
        print(json.dumps({"retrieval": table, "answers": outcome}, ensure_ascii=False))
        return 0
    print(f"{'':10}{'recall@1':>10}{'recall@3':>10}{'recall@5':>10}{'MRR':>10}")
    for way, row in table.items():
        shares = "".join(f"{row[name]:>10.3f}" for name in ("at_1", "at_3", "at_5", "mrr"))
        print(f"{way:10}{shares}")
    print("  ".join(f"{name.replace('_', ' ')} {count}" for name, count in outcome.items()))
    return 0
