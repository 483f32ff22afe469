"""The code search: its pure parts, the same hits wherever it runs, HTTP, and a worker that dies on the way."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

SCRIPT = "code_search.py"
QUERIES = [
    "def parse",
    "symbol:parse",
    '"return parse(value)" parse',
    "symbol:Parser.parse",
    "carriage",
    "no_such_word",
]
SMALL = ["--shards", "2", "--batch-files", "1", "--num-cpus", "2"]
STDLIB_DEADLINE_S = 300.0


@pytest.fixture
def code_search(load_example: Callable[[str], ModuleType]) -> Any:
    return load_example("code_search")


def question(tree: Path, *more: str) -> list[str]:
    asked = [part for query in QUERIES for part in ("--query", query)]
    return ["--root", str(tree), "--limit", "20", "--json", *asked, *more]


# Pure parts.


def test_sources_are_sorted_and_without_installed_packages(code_search: Any, source_tree: Path) -> None:
    sources = code_search.list_sources(source_tree)
    assert sources == sorted(sources)
    assert len(sources) == 31
    assert not [path for path in sources if "site-packages" in path or ".hidden" in path]


def test_definitions_have_kind_line_and_qualified_name(code_search: Any, source_tree: Path) -> None:
    parsed = code_search.parse_file("parser.py", (source_tree / "parser.py").read_bytes())
    assert parsed.definitions == [
        (1, "class", "Parser"),
        (2, "method", "Parser.parse"),
        (3, "function", "Parser.parse.inner"),
        (5, "assignment", "Parser.kind"),
        (5, "assignment", "Parser.other"),
        (7, "function", "parse"),
    ]
    assert parsed.words["parse"] == [2, 7, 8]
    assert parsed.problem is None


@pytest.mark.parametrize(
    ("name", "problem", "word"),
    [
        ("broken.py", "not parsed: ", "searched"),
        ("undecodable.py", "not decodable: ", "parse_bytes"),
        ("windows.py", None, "carriage"),
        ("latin.py", None, "grüße"),
    ],
)
def test_each_file_is_indexed_by_its_words(
    code_search: Any, source_tree: Path, name: str, problem: str | None, word: str
) -> None:
    parsed = code_search.parse_file(name, (source_tree / name).read_bytes())
    assert parsed.words[word] == [2]
    assert parsed.problem is None if problem is None else parsed.problem.startswith(problem)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"(" * 5000, b"# coding: rot13\n", b"\xef\xbb\xbfx = 1\n", b"x = '\\d'\n"]
)
def test_no_content_makes_the_parser_fail(code_search: Any, data: bytes) -> None:
    assert code_search.parse_file("any.py", data).source_bytes == len(data)


def test_a_confused_parser_is_asked_again(code_search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, failures = ast.parse, [SystemError("AST constructor recursion depth mismatch (before=27, after=24)")] * 2

    def confused(*arguments: Any) -> ast.Module:
        if failures:
            raise failures.pop()
        return parse(*arguments)

    monkeypatch.setattr(ast, "parse", confused)
    assert code_search.parse_file("any.py", b"def f(): pass\n").definitions == [(1, "function", "f")]


def test_a_batch_renumbers_lines_through_its_files(code_search: Any) -> None:
    first = code_search.parse_file("a.py", b"x = 1\ny = x\n")
    second = code_search.parse_file("b.py", b"x = 2\n")
    batch = code_search.pack_batch([first, second], code_search.Origin(7))
    assert batch.words == {"x": [0, 1, 3], "y": [1]}
    assert batch.definitions == [(0, "assignment", "x"), (1, "assignment", "y"), (3, "assignment", "x")]
    assert batch.summary == code_search.Summary(2, 5, 18, 3, 4, ()) == batch.summary + code_search.Summary()


def test_a_query_is_split_into_its_terms(code_search: Any) -> None:
    query = code_search.parse_query('symbol:A.b "def f(" os.path Join')
    assert query.symbols == ("A.b",)
    assert query.phrases == ("def f(",)
    assert query.words == ("os", "path", "join", "def", "f")
    assert query.verbatim == "os.path Join"


@pytest.mark.parametrize("text", ["", "  ", "+ -", '"()"'])
def test_a_query_without_a_word_is_refused(code_search: Any, text: str) -> None:
    with pytest.raises(ValueError, match="nothing to look for"):
        code_search.parse_query(text)


def test_a_shard_ranks_definitions_first_and_tests_last(code_search: Any, source_tree: Path) -> None:
    names = ["tests/test_parser.py", "parser.py", "package_0/module_00.py"]
    shard = code_search.Shard()  # an ordinary object here
    for name in names:
        parsed = code_search.parse_file(name, (source_tree / name).read_bytes())
        shard.add(code_search.pack_batch([parsed], code_search.Origin(1)))
    answer = shard.search(code_search.parse_query("parse"), 4)
    assert [(hit.path, hit.line, hit.defines) for hit in answer.hits] == [
        ("parser.py", 2, "method Parser.parse"),
        ("parser.py", 7, "function parse"),
        ("tests/test_parser.py", 1, "function parse"),
        ("package_0/module_00.py", 7, None),
    ]
    assert answer.total == 44


# As a program.


def test_same_hits_in_process_on_workers_and_on_a_shared_node(programs: Any, source_tree: Path) -> None:
    inproc = json.loads(programs.output(SCRIPT, *question(source_tree, *SMALL, "--address", "inproc://")))
    local = json.loads(programs.output(SCRIPT, *question(source_tree, *SMALL)))
    with programs.node() as address:
        attach = ["--shards", "2", "--batch-files", "1", "--address", address]
        shared = json.loads(programs.output(SCRIPT, *question(source_tree, *attach)))
        again = json.loads(programs.output(SCRIPT, *question(source_tree, *attach)))
    assert inproc == local == shared == again
    assert inproc["stats"]["files"] == 31
    assert [problem.partition(":")[0] for problem in inproc["stats"]["problems"]] == ["broken.py", "undecodable.py"]
    totals = {answer["query"]: answer["total"] for answer in inproc["answers"]}
    assert totals == {
        "def parse": 4,
        "symbol:parse": 3,
        '"return parse(value)" parse': 24 * 40,
        "symbol:Parser.parse": 1,
        "carriage": 1,
        "no_such_word": 0,
    }


def test_hits_do_not_depend_on_shards_and_batches(programs: Any, source_tree: Path) -> None:
    wide = json.loads(programs.output(SCRIPT, *question(source_tree, "--address", "inproc://", "--shards", "5")))
    narrow = json.loads(programs.output(SCRIPT, *question(source_tree, "--address", "inproc://", "--shards", "1")))
    assert wide["answers"] == narrow["answers"]


def test_a_killed_worker_changes_nothing(programs: Any, source_tree: Path) -> None:
    undisturbed = programs.output(SCRIPT, *question(source_tree, *SMALL))
    disturbed = programs.run(programs.path(SCRIPT), *question(source_tree, *SMALL, "--kill-a-worker"))
    assert disturbed.returncode == 0, disturbed.stderr
    assert re.search(r"^killed worker \d+ \(SIGKILL\) with \d+ of 31 files indexed$", disturbed.stderr, re.MULTILINE)
    assert disturbed.stdout == undisturbed


def test_no_worker_can_be_killed_in_process(programs: Any, source_tree: Path) -> None:
    done = programs.run(programs.path(SCRIPT), *question(source_tree, "--address", "inproc://", "--kill-a-worker"))
    assert done.returncode == 2
    assert "inproc:// has none" in done.stderr


def test_draws_a_bar_on_a_terminal_only(programs: Any, source_tree: Path) -> None:
    ours, theirs = os.openpty()
    arguments = [sys.executable, programs.path(SCRIPT), *question(source_tree, *SMALL, "--address", "inproc://")]
    try:
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
        drawn = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert f"[{'#' * 40}] 31/31 files" in drawn
    assert json.loads(done.stdout)["stats"]["files"] == 31


@pytest.mark.asyncio
async def test_an_interrupt_while_indexing_ends_it_all(programs: Any) -> None:
    stdlib = sysconfig.get_paths()["stdlib"]
    # A shell's background job ignores interrupts, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = programs.start(programs.path(SCRIPT), "--root", stdlib, "--kill-a-worker", "--batch-files", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        async with asyncio.timeout(60):
            # The line tells that indexing is on its way.
            assert "killed worker" in await asyncio.to_thread(process.stderr.readline)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait) == 130
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    finally:
        process.kill()
        process.communicate()


def test_no_node_at_the_address(programs: Any, source_tree: Path) -> None:
    done = programs.run(programs.path(SCRIPT), *question(source_tree, "--address", "uds:///nowhere/node.sock"))
    assert done.returncode == 1
    assert re.fullmatch(r"code_search\.py: .*/nowhere/node\.sock.*\n", done.stderr)


def test_an_empty_query_is_refused_before_indexing(programs: Any, source_tree: Path) -> None:
    done = programs.run(programs.path(SCRIPT), "--root", str(source_tree), "--query", "...")
    assert done.returncode == 2
    assert "nothing to look for in '...'" in done.stderr


def test_the_standard_library_without_arguments(programs: Any, code_search: Any) -> None:
    printed = programs.output(SCRIPT, deadline_s=STDLIB_DEADLINE_S)
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    assert f"{len(code_search.list_sources(stdlib)):,} files" in printed
    assert re.search(r"\d symbols, .*\d distinct words, .*\d postings", printed)
    assert re.search(r"^indexed .* on local in \d+\.\d s$", printed, re.MULTILINE)
    assert re.search(r"^  ast\.py:\d+: def parse\(.*\[function parse\]$", printed, re.MULTILINE)
    assert re.search(r"^  collections/__init__\.py:\d+: class OrderedDict\(", printed, re.MULTILINE)


# Over HTTP.


@pytest.mark.asyncio
@pytest.mark.parametrize("address", ["inproc://", "local"])
async def test_embedded_in_an_application(code_search: Any, source_tree: Path, address: str) -> None:
    seen: list[tuple[int, int]] = []
    settings = code_search.Settings(source_tree, address, num_cpus=2, shards=2, batch_files=4)
    app = code_search.build_app(settings, lambda done, total, origin: seen.append((done, total)))
    async with asyncio.timeout(60), TestClient(TestServer(app)) as client:
        assert seen[-1] == (31, 31)
        assert await get(client, "/healthz") == (200, {"status": "ok", "files": 31})
        status, answer = await get(client, "/search", q="def parse", limit="2")
        assert (status, answer["total"]) == (200, 4)
        assert [(hit["path"], hit["line"]) for hit in answer["hits"]] == [("parser.py", 2), ("parser.py", 7)]
        assert (await get(client, "/stats"))[1]["problems"][0].startswith("broken.py: not parsed")
        for wrong in ({"q": ""}, {}, {"q": "x", "limit": "0"}, {"q": "x", "limit": "many"}):
            assert (await get(client, "/search", **wrong))[0] == 400


async def get(client: Any, path: str, **query: str) -> tuple[int, Any]:
    async with client.get(path, params=query) as response:
        return response.status, await response.json()


@pytest.mark.asyncio
async def test_serves_until_it_is_told_to_stop(programs: Any, source_tree: Path) -> None:
    process = programs.start(programs.path(SCRIPT), "--root", str(source_tree), "--serve", "--port", "0", *SMALL)
    try:
        async with asyncio.timeout(60):
            line = await asyncio.to_thread(process.stdout.readline)
            url = line.removeprefix("listening on ").strip()
            async with aiohttp.ClientSession(url) as client:
                assert await get(client, "/healthz") == (200, {"status": "ok", "files": 31})
                status, answer = await get(client, "/search", q="symbol:carriage")
                assert (status, [hit["path"] for hit in answer["hits"]]) == (200, ["windows.py"])
        process.send_signal(signal.SIGTERM)
        assert (await asyncio.to_thread(process.wait, 30), process.stderr.read()) == (0, "")
    finally:
        process.kill()
        process.communicate()
