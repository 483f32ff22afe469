"""Code search: index a source tree in worker processes, keep it in actors, ask over HTTP or on the command line.

    python examples/code_search.py                                  # the standard library and three queries
    python examples/code_search.py --query 'def parse' --query symbol:Path
    python examples/code_search.py --root src --serve --port 8080   # GET /search?q=...&limit=..., /stats, /healthz

Tasks parse batches of files; a batch goes from the worker that parsed it to its shard as a reference, so this program
never holds it. A query is answered by all shards at once and merged. Hits do not depend on where the program runs
(`--address`), on the order in which batches arrive, or on a worker that dies on the way: its batches are parsed again.

A hit is a line. A query is a list of terms that must all match it: `word` (any case), `"a phrase"` (verbatim),
`symbol:Name` (the line defines Name: a function, class, method or assignment).
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import bisect
import contextlib
import dataclasses
import heapq
import io
import itertools
import json
import os
import re
import signal
import sys
import sysconfig
import time
import tokenize
import warnings
import zlib
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

import actorlite as al

BUILT_IN_QUERIES = ("def parse", "symbol:OrderedDict", '"async def" timeout')
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "node_modules"})
WORD = re.compile(r"[^\W\d]\w*")
TERM = re.compile(r'symbol:(?P<symbol>\S+)|"(?P<phrase>[^"]+)"|(?P<plain>\S+)')
PARSED_NAME = "<indexed source>"


@dataclass(frozen=True)
class Settings:
    """What to index, and where."""

    root: Path
    address: str = "local"
    num_cpus: float | None = None
    shards: int = 4
    batch_files: int = 16


@dataclass(frozen=True)
class Summary:
    """The size of a part of the index; parts add up."""

    files: int = 0
    lines: int = 0
    source_bytes: int = 0
    symbols: int = 0
    postings: int = 0
    problems: tuple[str, ...] = ()

    def __add__(self, other: Summary) -> Summary:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Summary(*(mine + theirs for mine, theirs in pairs))


@dataclass(frozen=True)
class Origin:
    """Who parsed a batch, and whether somebody died trying to."""

    worker_pid: int
    attempt: int = 0


@dataclass(frozen=True)
class ParsedFile:
    """One file as the index keeps it. Lines are numbered from 1."""

    path: str
    text: str
    source_bytes: int
    definitions: list[tuple[int, str, str]]
    """Line, kind and qualified name, in this order."""
    words: dict[str, list[int]]
    problem: str | None = None


@dataclass(frozen=True)
class Batch:
    """What one task hands to a shard. Lines are numbered through all files of the batch, from 0."""

    files: list[tuple[str, int, bytes]]
    """Path, number of lines and compressed text."""
    definitions: list[tuple[int, str, str]]
    words: dict[str, list[int]]
    summary: Summary
    origin: Origin


@dataclass(frozen=True)
class Query:
    text: str
    words: tuple[str, ...]
    phrases: tuple[str, ...]
    symbols: tuple[str, ...]
    verbatim: str
    """The plain terms as they were typed: a line that has them side by side ranks higher."""


@dataclass(frozen=True)
class Hit:
    path: str
    line: int
    text: str
    defines: str | None
    score: int

    @property
    def order(self) -> tuple[int, str, int]:
        return -self.score, self.path, self.line


@dataclass(frozen=True)
class Answer:
    total: int
    hits: list[Hit]


# Pure functions: from bytes to a batch, from text to a query.


def list_sources(root: Path) -> list[str]:
    """The Python files below `root` as relative paths, sorted; installed packages and hidden folders are skipped."""
    found: list[str] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        paths = [Path(folder, name) for name in names if name.endswith(".py")]
        found.extend(path.relative_to(root).as_posix() for path in paths if path.is_file())
    return sorted(found)


def decode_source(data: bytes) -> tuple[str, str | None]:
    """The text with `\\n` line ends, and what is wrong with its encoding, if anything."""
    problem = None
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeError, LookupError) as error:
        text, problem = data.decode("utf-8", errors="replace"), f"not decodable: {error}"
    return text.replace("\r\n", "\n").replace("\r", "\n"), problem


def build_tree(text: str) -> ast.Module:
    """`ast.parse`, tried again where Python 3.11 fails by mistake.

    It counts nesting once for all threads, and a garbage collection in the middle lets another thread parse. Workers
    parse in one thread each; in process several do.
    """
    for _ in range(4):
        with contextlib.suppress(SystemError):
            return ast.parse(text, PARSED_NAME)
    return ast.parse(text, PARSED_NAME)


def find_definitions(tree: ast.Module) -> list[tuple[int, str, str]]:
    """Functions and classes at any depth, and names assigned at module or class level."""
    found: list[tuple[int, str, str]] = []
    pending: list[tuple[ast.AST, str, str]] = [(tree, "", "module")]
    while pending:
        parent, prefix, scope = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                found.append((node.lineno, "class", prefix + node.name))
                pending.append((node, f"{prefix}{node.name}.", "class"))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((node.lineno, "method" if scope == "class" else "function", prefix + node.name))
                pending.append((node, f"{prefix}{node.name}.", "function"))
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [t.id for t in targets if isinstance(t, ast.Name) and scope != "function"]
                found.extend((node.lineno, "assignment", prefix + name) for name in names)
            elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
                pending.append((node, prefix, scope))
    return sorted(found)


def parse_file(path: str, data: bytes) -> ParsedFile:
    """Never raises: a file that is no valid Python is indexed by its words, and `problem` says why."""
    text, problem = decode_source(data)
    definitions: list[tuple[int, str, str]] = []
    if problem is None:
        try:
            definitions = find_definitions(build_tree(text))
        except SyntaxError as error:
            problem = f"not parsed: {error.msg}"
        except (ValueError, RecursionError, MemoryError) as error:
            problem = f"not parsed: {type(error).__name__}"
    words: dict[str, list[int]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        for word in set(WORD.findall(line.lower())):
            words.setdefault(word, []).append(number)
    return ParsedFile(path, text, len(data), definitions, words, problem)


def pack_batch(parsed: Sequence[ParsedFile], origin: Origin) -> Batch:
    """Join files into one batch, renumbering their lines."""
    files: list[tuple[str, int, bytes]] = []
    definitions: list[tuple[int, str, str]] = []
    words: dict[str, list[int]] = {}
    first = 0
    for file in parsed:
        line_count = file.text.count("\n") + 1
        files.append((file.path, line_count, zlib.compress(file.text.encode("utf-8", "surrogatepass"))))
        definitions.extend((first + line - 1, kind, name) for line, kind, name in file.definitions)
        for word, lines in file.words.items():
            words.setdefault(word, []).extend([first + line - 1 for line in lines])
        first += line_count
    summary = Summary(
        files=len(parsed),
        lines=first,
        source_bytes=sum(file.source_bytes for file in parsed),
        symbols=len(definitions),
        postings=sum(map(len, words.values())),
        problems=tuple(f"{file.path}: {file.problem}" for file in parsed if file.problem),
    )
    return Batch(files, definitions, words, summary, origin)


def parse_query(text: str) -> Query:
    """Raises `ValueError` when there is nothing to look for."""
    terms = list(TERM.finditer(text))
    plain = [term["plain"] for term in terms if term["plain"]]
    phrases = tuple(term["phrase"] for term in terms if term["phrase"])
    symbols = tuple(term["symbol"] for term in terms if term["symbol"])
    words = dict.fromkeys(word for part in (*plain, *phrases) for word in WORD.findall(part.lower()))
    if not words and not symbols:
        raise ValueError(f"nothing to look for in {text!r}: give a word, a quoted phrase or symbol:Name")
    return Query(text, tuple(words), phrases, symbols, " ".join(plain))


# The distributed part: a task that parses and an actor that keeps.


@al.remote(num_cpus=1, max_retries=3)
def parse_batch(root: str, paths: list[str]) -> Batch:
    """Parse files in a worker process. Reading them again gives the same batch, so it may be retried."""
    # Old code warns about its own escapes. The rule names our file only: on inproc:// this is the caller's process.
    warnings.filterwarnings("ignore", module=re.escape(PARSED_NAME))
    parsed: list[ParsedFile] = []
    for path in paths:
        try:
            parsed.append(parse_file(path, Path(root, path).read_bytes()))
        except OSError as error:
            parsed.append(ParsedFile(path, "", 0, [], {}, f"not readable: {error.strerror}"))
    return pack_batch(parsed, Origin(os.getpid(), al.runtime_context().attempt or 0))


class Shard(al.Actor):
    """A part of the index. Plain methods run in the actor's thread, so a long query does not stop its process."""

    def __init__(self) -> None:
        self._files: list[tuple[str, bytes]] = []
        self._first_lines: list[int] = []
        self._line_count = 0
        self._lines_with: dict[str, array[int]] = {}
        self._lines_defining: dict[str, list[int]] = {}
        self._definitions: dict[int, tuple[tuple[str, str], ...]] = {}

    @al.method
    def add(self, batch: Batch) -> tuple[Summary, Origin]:
        """Take a batch in; returns its size and where it came from."""
        start = self._line_count
        for path, line_count, packed in batch.files:
            self._files.append((path, packed))
            self._first_lines.append(self._line_count)
            self._line_count += line_count
        for word, lines in batch.words.items():
            known = self._lines_with.get(word)
            if known is None:
                known = self._lines_with[sys.intern(word)] = array("I")
            known.extend([start + line for line in lines])
        for line, kind, name in batch.definitions:
            self._definitions[start + line] = (*self._definitions.get(start + line, ()), (kind, name))
            self._lines_defining.setdefault(name.rpartition(".")[2], []).append(start + line)
        return batch.summary, batch.origin

    @al.method
    def words(self) -> set[str]:
        return set(self._lines_with)

    @al.method
    def file_count(self) -> int:
        return len(self._files)

    @al.method
    def search(self, query: Query, limit: int) -> Answer:
        """This shard's best `limit` hits, and how many lines match in all."""
        hits = self._matches(query, sorted(self._candidates(query)))
        return Answer(len(hits), heapq.nsmallest(limit, hits, key=lambda hit: hit.order))

    def _candidates(self, query: Query) -> set[int]:
        """Lines with every word and every definition asked for, by the index alone."""
        lists: list[Sequence[int]] = [self._lines_with.get(word, ()) for word in query.words]
        lists += [self._lines_defining.get(symbol.rpartition(".")[2], ()) for symbol in query.symbols]
        lists.sort(key=len)
        return set(lists[0]).intersection(*lists[1:])

    def _matches(self, query: Query, candidates: Sequence[int]) -> list[Hit]:
        """Read the candidate lines: check phrases and qualified names, and score."""
        hits: list[Hit] = []

        def file_of(line: int) -> int:
            return bisect.bisect_right(self._first_lines, line) - 1

        for number, lines in itertools.groupby(candidates, key=file_of):
            path, packed = self._files[number]
            texts = zlib.decompress(packed).decode("utf-8", "surrogatepass").split("\n")
            in_tests = any(part.startswith("test") for part in Path(path).parts)
            for line in lines:
                text = texts[line - self._first_lines[number]]
                defined = self._definitions.get(line, ())
                names = [name for _, name in defined]
                if not all(phrase in text for phrase in query.phrases):
                    continue
                if not all(any(f".{name}".endswith(f".{wanted}") for name in names) for wanted in query.symbols):
                    continue
                defines_a_word = any(name.rpartition(".")[2].lower() in query.words for name in names)
                score = 4 * defines_a_word + 2 * (query.verbatim in text) + (not in_tests)
                defines = ", ".join(f"{kind} {name}" for kind, name in defined) or None
                hits.append(Hit(path, line - self._first_lines[number] + 1, text.strip(), defines, score))
        return hits


@dataclass(frozen=True)
class CodeIndex:
    """The finished index, as the program that asks it sees it."""

    shards: list[Shard]
    size: Summary
    distinct_words: int
    seconds: float

    async def search(self, text: str, limit: int = 10) -> Answer:
        """The best `limit` hits of all shards. Raises `ValueError` for an empty query."""
        query = parse_query(text)
        parts = await asyncio.gather(*(shard.search(query, limit) for shard in self.shards))
        best = heapq.nsmallest(limit, (hit for part in parts for hit in part.hits), key=lambda hit: hit.order)
        return Answer(sum(part.total for part in parts), best)

    def stats(self) -> dict[str, Any]:
        """Everything but the time: equal for equal trees."""
        return {**dataclasses.asdict(self.size), "distinct_words": self.distinct_words, "shards": len(self.shards)}


OnBatch = Callable[[int, int, Origin], None]
"""Called with files done, files in all, and where the latest batch came from."""


async def build_index(settings: Settings, on_batch: OnBatch) -> CodeIndex:
    """Index `settings.root` in the current session. A bounded number of batches is under way at a time."""
    began = time.perf_counter()
    paths = list_sources(settings.root)
    shards = [Shard.remote() for _ in range(settings.shards)]
    size = Summary()
    ahead = max(8, 2 * (os.cpu_count() or 1))
    adding: list[al.ObjectRef[tuple[Summary, Origin]]] = []

    async def take(added: al.ObjectRef[tuple[Summary, Origin]]) -> None:
        nonlocal size
        summary, origin = await added
        size += summary
        on_batch(size.files, len(paths), origin)

    for number, start in enumerate(range(0, len(paths), settings.batch_files)):
        if len(adding) >= ahead:
            added, adding = await al.wait(adding, num_returns=1)
            for ref in added:
                await take(ref)
        batch = parse_batch.remote(str(settings.root), paths[start : start + settings.batch_files])
        adding.append(shards[number % len(shards)].add.remote(al.arg(batch)))
    async for ref in al.as_completed(adding):
        await take(ref)
    words = await asyncio.gather(*(shard.words() for shard in shards))
    size = dataclasses.replace(size, problems=tuple(sorted(size.problems)))
    return CodeIndex(shards, size, len(set().union(*words)), time.perf_counter() - began)


# Over HTTP: the session and the index live as long as the application.


INDEX = web.AppKey("index", CodeIndex)


def build_app(settings: Settings, on_batch: OnBatch) -> web.Application:
    """An application that indexes when it starts and closes its session when it ends."""

    async def index_while_running(app: web.Application) -> AsyncIterator[None]:
        async with al.init(settings.address, num_cpus=settings.num_cpus):
            app[INDEX] = await build_index(settings, on_batch)
            yield

    app = web.Application()
    app.cleanup_ctx.append(index_while_running)
    app.add_routes([web.get("/search", search), web.get("/stats", stats), web.get("/healthz", healthz)])
    return app


async def search(request: web.Request) -> web.Response:
    try:
        limit = int(request.query.get("limit", "10"))
        if not 1 <= limit <= 1000:
            raise ValueError("limit must be between 1 and 1000")
        answer = await request.app[INDEX].search(request.query.get("q", ""), limit)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"query": request.query["q"], **dataclasses.asdict(answer)})


async def stats(request: web.Request) -> web.Response:
    return web.json_response(request.app[INDEX].stats())


async def healthz(request: web.Request) -> web.Response:
    """Healthy while every shard answers."""
    try:
        files = await asyncio.gather(*(shard.file_count() for shard in request.app[INDEX].shards))
    except al.errors.ActorliteError as error:
        return web.json_response({"status": "failing", "error": str(error)}, status=503)
    return web.json_response({"status": "ok", "files": sum(files)})


# On the command line.


class Progress:
    """Draws a bar on a terminal while the index is built and, if asked to, kills a worker on the way."""

    def __init__(self, *, kill_a_worker: bool) -> None:
        self.kill_a_worker = kill_a_worker
        self.parsed_again = 0
        self._draws = sys.stderr.isatty()

    def __call__(self, done: int, total: int, origin: Origin) -> None:
        self.parsed_again += origin.attempt > 0
        if self.kill_a_worker and 3 * done >= total:
            # The worker may have ended by itself: then the next batch names another one.
            with contextlib.suppress(ProcessLookupError):
                os.kill(origin.worker_pid, signal.SIGKILL)
                self.kill_a_worker = False
                self._say(f"killed worker {origin.worker_pid} (SIGKILL) with {done} of {total} files indexed\n")
        if self._draws:
            self._say(f"[{'#' * (40 * done // total):.<40}] {done}/{total} files" + "\n" * (done == total))

    def _say(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}" if self._draws else text)
        sys.stderr.flush()


async def serve(settings: Settings, progress: Progress, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; port 0 takes a free one, which is printed."""
    stopped = asyncio.Event()
    runner = web.AppRunner(build_app(settings, progress))
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        bound_host, bound_port, *_ = runner.addresses[0]
        print(f"listening on http://{bound_host}:{bound_port}", flush=True)
        await stopped.wait()
    finally:
        await runner.cleanup()


def print_index(index: CodeIndex, settings: Settings) -> None:
    size = index.size
    print(f"indexed {settings.root} on {settings.address} in {index.seconds:.1f} s")
    print(f"  {size.files:,} files, {size.lines:,} lines, {size.source_bytes:,} bytes, in {len(index.shards)} shards")
    print(f"  {size.symbols:,} symbols, {index.distinct_words:,} distinct words, {size.postings:,} postings")
    if size.problems:
        print(f"  {len(size.problems)} files are indexed by their words alone, the first: {size.problems[0]}")


async def ask(settings: Settings, progress: Progress, queries: Sequence[str], limit: int, *, as_json: bool) -> None:
    """Index, answer each query, print."""
    async with al.init(settings.address, num_cpus=settings.num_cpus):
        index = await build_index(settings, progress)
        if not as_json:
            print_index(index, settings)
        answers: list[dict[str, Any]] = []
        for query in queries:
            began = time.perf_counter()
            answer = await index.search(query, limit)
            answers.append({"query": query, **dataclasses.asdict(answer)})
            if not as_json:
                print(f"\n{query}: {answer.total:,} lines in {1000 * (time.perf_counter() - began):.0f} ms")
                for hit in answer.hits:
                    print(f"  {hit.path}:{hit.line}: {hit.text}" + (f"  [{hit.defines}]" if hit.defines else ""))
    if as_json:
        print(json.dumps({"stats": index.stats(), "answers": answers}, indent=2))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Index a source tree and search it.")
    parser.add_argument("--root", type=Path, default=Path(sysconfig.get_paths()["stdlib"]), help="the tree to index")
    parser.add_argument("--address", default="local", help="inproc://, local (default), auto or uds:///path")
    parser.add_argument("--num-cpus", type=float, help="parse tasks at a time (default: the node's CPUs)")
    parser.add_argument("--shards", type=int, default=4, help="actors that keep the index (default: 4)")
    parser.add_argument("--batch-files", type=int, default=16, help="files per parse task (default: 16)")
    parser.add_argument("--query", action="append", help="what to look for; may be repeated")
    parser.add_argument("--limit", type=int, default=5, help="hits to print per query (default: 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    parser.add_argument("--kill-a-worker", action="store_true", help="SIGKILL one worker process while indexing")
    parser.add_argument("--serve", action="store_true", help="serve HTTP instead of answering --query")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free port (default: 8080)")
    return parser


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    queries = options.query or BUILT_IN_QUERIES
    if not options.root.is_dir():
        parser.error(f"--root: {options.root} is no folder")
    if min(options.shards, options.batch_files, options.limit) < 1:
        parser.error("--shards, --batch-files and --limit must be at least 1")
    if options.kill_a_worker and options.address.startswith("inproc:"):
        parser.error("--kill-a-worker needs worker processes, and inproc:// has none: choose another --address")
    try:
        for query in queries:
            parse_query(query)
    except ValueError as error:
        parser.error(f"--query: {error}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # sources hold characters that a terminal may not have
    settings = Settings(options.root, options.address, options.num_cpus, options.shards, options.batch_files)
    progress = Progress(kill_a_worker=options.kill_a_worker)
    try:
        if options.serve:
            asyncio.run(serve(settings, progress, options.host, options.port))
        else:
            asyncio.run(ask(settings, progress, queries, options.limit, as_json=options.json))
    except KeyboardInterrupt:
        sys.exit(130)
    except (al.errors.ConnectFailed, al.errors.NodeStartError) as error:
        sys.exit(f"{parser.prog}: {error}")
    if progress.kill_a_worker:
        sys.exit("no worker was killed: the index was finished too soon")
    if progress.parsed_again:
        print(f"batches parsed again after a worker died: {progress.parsed_again}", file=sys.stderr)


if __name__ == "__main__":
    main()
