"""The import rules and size budgets of docs/architecture.md, read from the syntax trees of both packages."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "errors ids loading mailboxes checks options signatures resources labels strategies definitions config context"
        " deadlines propagation refs streams",
        "wire state",
        "transport host proctree pages",
        "rpc",
        "store runtime_env",
        "runtime",
        "worker node control",
        "api task actor methods placement sync session inspection observe",
        "interface __init__",
        "opening",
        "cli commands shared_node daemon testing __main__",
    )
)
FOLDERS = frozenset(
    {"wire", "state", "rpc", "store", "runtime_env", "runtime", "worker", "node", "control", "opening", "testing"}
)
PURE_FOLDERS = frozenset({"wire", "state"})
IMPURE_MODULES = frozenset({"asyncio", "socket", "time", "random", "os", "logging"})
SEAM = frozenset({"actorlite.transport", "actorlite.errors", "actorlite.wire.framing"})
BAD_NAMES = frozenset({"utils.py", "common.py", "helpers.py", "base.py", "manager.py"})
REEXPORTING = frozenset({"actorlite/__init__.py", "actorlite/interface.py", "actorlite/testing/__init__.py"})

MAX_FILE_LINES = 600
MAX_CLASS_LINES = 300
MAX_METHODS = 20
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8

ALLOWED: dict[str, str] = {
    "import actorlite/__init__.py:actorlite.interface": "importing any module of ours runs this file: it imports late",
    "methods actorlite/resources.py:ResourceSet": "a value: its arithmetic, and what a value has to have in Python",
    "methods actorlite/inspection.py:RuntimeContext": "a flat list of read-only getters, each of which users know",
    "parameters actorlite/session.py:init": "what a user may say of a session and of its node",
    "methods actorlite/runtime/runtime.py:ProcessRuntime": "the facade context.Runtime declares: thin calls on parts",
    "class actorlite/runtime/actors.py:Link": "slim: one object for what a handle knows, its queue included",
    "methods actorlite/runtime/actors.py:Link": "slim: one object for what a handle knows, its queue included",
    "methods actorlite/worker/scope.py:RunningCall": "a call as its mailbox and its user code see it, however it came",
    "methods actorlite/worker/inbound.py:InboundCall": "a call as its mailbox, its user code and its answer see it",
    "methods actorlite/state/mailbox.py:Mailbox": "one queue, for those who offer, count, take back and drop calls",
    "class actorlite/state/objects.py:ObjectTable": "a method for each event of an object's life",
    "methods actorlite/state/objects.py:ObjectTable": "a method for each event of an object's life",
    "methods actorlite/state/revisions.py:Revisions": "one order for all of etcd's primitives, leases included",
    "class actorlite/node/objects.py:NodeStore": "a handler for each message and request of the store",
    "methods actorlite/store/client.py:StoreClient": "writing, reading and letting go of one store, each in two steps",
    "methods actorlite/runtime/calls.py:Outbound": "a call as whoever made it, its connection and its end see it",
    "methods actorlite/rpc/peer.py:Peer": "a connection as its transport, its users and the other side see it",
    "methods actorlite/node/objects.py:NodeStore": "a handler for each message and request of the store",
    "methods actorlite/refs.py:ObjectRef": "a future's whole interface, which asyncio's combinators ask for, and ours",
}
"""What may exceed a budget or be imported late: `"<budget> <path>:<qualified name>"` to the reason."""


@dataclass(frozen=True, slots=True)
class Import:
    """One own-package module, or the name of a foreign one, that a module imports."""

    target: str
    line: int
    type_only: bool
    in_function: bool


@dataclass(frozen=True)
class Module:
    path: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def name(self) -> str:
        parts = PurePosixPath(self.path.removeprefix("transports/")).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def part(self) -> str:
        """The name in `LAYERS`: a folder, a module directly in the package, or `__init__`."""
        return _part(self.name)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(_imports(self))


def _part(name: str) -> str:
    _, _, rest = name.partition(".")
    return rest.partition(".")[0] or "__init__"


def _layer(part: str) -> int | None:
    return next((number for number, names in enumerate(LAYERS) if part in names), None)


def _imports(module: Module) -> Iterator[Import]:
    def visit(node: ast.AST, type_only: bool, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, type_only, in_function)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(_from_target(module, node, alias.name), node.lineno, type_only, in_function)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for guarded in node.body:
                yield from visit(guarded, True, in_function)
            for other in node.orelse:
                yield from visit(other, type_only, in_function)
        else:
            inner = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, type_only, inner)

    yield from visit(module.tree, False, False)


def _from_target(module: Module, node: ast.ImportFrom, name: str) -> str:
    """`from actorlite.x import name` imports `actorlite.x.name` where that is a module, and else `actorlite.x`."""
    package = module.name.split(".")
    if node.level:
        is_package = module.path.endswith("/__init__.py")
        package = package[: len(package) - node.level + is_package]
        base = ".".join([*package, *([node.module] if node.module else [])])
    else:
        base = node.module or ""
    submodule = f"{base}.{name}"
    # Folders of the package hold modules only, so a name imported from one is a module.
    return submodule if base == "actorlite" and _layer(name) is not None or base in _FOLDER_NAMES else base


_FOLDER_NAMES = frozenset(f"actorlite.{folder}" for folder in FOLDERS - {"testing"})


def _own(imported: Import) -> bool:
    return imported.target.partition(".")[0] in {"actorlite", "actorlite_transports"}


# Rules: each takes a module and yields (line, what is wrong).

Finding = tuple[int, str]


def layers(module: Module) -> Iterator[Finding]:
    if module.package != "actorlite":
        return
    own = _layer(module.part)
    if own is None:
        yield 1, f"{module.part!r} has no place in LAYERS"
        return
    for imported in module.imports:
        if imported.target.partition(".")[0] != "actorlite":
            continue
        part = _part(imported.target)
        other = _layer(part)
        if other is None:
            yield imported.line, f"imports {imported.target}, which has no place in LAYERS"
        elif other > own:
            yield imported.line, f"imports upward: {module.part} (layer {own}) imports {part} (layer {other})"
        elif other == own and part != module.part and {part, module.part} <= FOLDERS:
            yield imported.line, f"imports sideways: {module.part} imports {part}, both of layer {own}"


def pure_logic(module: Module) -> Iterator[Finding]:
    if module.package == "actorlite" and module.part in PURE_FOLDERS:
        for imported in module.imports:
            if imported.target.partition(".")[0] in IMPURE_MODULES:
                yield imported.line, f"layer 1 is pure: it may not import {imported.target}"


def lowest_layer_needs_little(module: Module) -> Iterator[Finding]:
    if module.package == "actorlite" and _layer(module.part) == 0:
        for imported in module.imports:
            top = imported.target.partition(".")[0]
            if top not in {"actorlite", "msgspec"} and top not in sys.stdlib_module_names:
                yield (
                    imported.line,
                    f"layer 0 needs the standard library and msgspec: not {imported.target}",
                )


def transports_meet_the_core_at_the_seam(module: Module) -> Iterator[Finding]:
    for imported in module.imports:
        top = imported.target.partition(".")[0]
        if module.package == "actorlite_transports" and top == "actorlite" and imported.target not in SEAM:
            yield imported.line, f"a transport may import only {', '.join(sorted(SEAM))}, not {imported.target}"
        if module.package == "actorlite" and top == "actorlite_transports":
            yield imported.line, "actorlite never imports actorlite_transports; get_transport() finds it by name"
        if top in {"transports", "tests"}:
            yield imported.line, f"imports {imported.target}: {top} is a folder, not a package"


def no_own_import_in_functions(module: Module) -> Iterator[Finding]:
    for imported in module.imports:
        if imported.in_function and _own(imported):
            yield imported.line, f"imports {imported.target} inside a function: this hides a cycle"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and str(name.value).startswith("actorlite"):
                if f"import {module.path}:{name.value}" not in ALLOWED:
                    yield node.lineno, f"imports {name.value!r} by a call: this hides a cycle"


def file_names(module: Module) -> Iterator[Finding]:
    name = PurePosixPath(module.path).name
    if name in BAD_NAMES:
        yield 1, f"{name} says nothing about what is in it"


def package_files_are_empty(module: Module) -> Iterator[Finding]:
    if not module.path.endswith("/__init__.py") and module.path not in REEXPORTING:
        return
    body = module.tree.body
    if not body or ast.get_docstring(module.tree) is None:
        yield 1, "a package's __init__.py has a docstring"
    for node in body[1:]:
        if module.path not in REEXPORTING:
            yield node.lineno, "a package's __init__.py is a docstring and nothing else"
        elif not isinstance(node, ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.Delete | ast.If):
            yield node.lineno, "a public __init__.py only re-exports: `from ... import ...` and __all__"
        elif isinstance(node, ast.If) and not _exports_late(node):
            yield node.lineno, "a public __init__.py only re-exports, at once or by __getattr__ and __dir__"


def _exports_late(node: ast.If) -> bool:
    """Imports for type checkers, and for others what imports when it is asked."""
    at_run_time = {each.name if isinstance(each, ast.FunctionDef) else "" for each in node.orelse}
    return (
        ast.unparse(node.test) == "TYPE_CHECKING"
        and all(isinstance(each, ast.ImportFrom) for each in node.body)
        and at_run_time == {"__getattr__", "__dir__"}
    )


def no_global_statement(module: Module) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield node.lineno, f"global {', '.join(node.names)}: state belongs to an object"


def every_task_has_an_owner(module: Module) -> Iterator[Finding]:
    for node in ast.walk(module.tree):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            continue
        called = node.value.func
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        receiver = ast.unparse(called.value) if isinstance(called, ast.Attribute) else ""
        if name in {"create_task", "ensure_future"} and not receiver.endswith(("tg", "group")):
            yield node.lineno, f"{ast.unparse(called)}(...) as a statement: nobody keeps the task"


def no_swallowed_exception(module: Module) -> Iterator[Finding]:
    everything = {"Exception", "BaseException"}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = {ast.unparse(name) for name in _names_of(node.type)}
            silent = all(isinstance(each, ast.Pass | ast.Continue) or _is_ellipsis(each) for each in node.body)
            if silent and (node.type is None or caught & everything):
                yield node.lineno, "swallows every exception: handle it, map it or let it pass"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            if any(ast.unparse(each) in everything for each in node.args):
                yield node.lineno, "suppresses every exception: name those that are expected"


def _names_of(node: ast.expr | None) -> list[ast.expr]:
    return [] if node is None else node.elts if isinstance(node, ast.Tuple) else [node]


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is Ellipsis


def budgets(module: Module) -> Iterator[Finding]:
    for line, key, text in _over_budget(module):
        if key not in ALLOWED:
            yield line, f"{text} (to allow it, add {key!r} with a reason to ALLOWED)"


def _over_budget(module: Module) -> Iterator[tuple[int, str, str]]:
    length = len(module.source.splitlines())
    if length > MAX_FILE_LINES:
        yield 1, f"file {module.path}", f"{length} lines in a file, at most {MAX_FILE_LINES}"
    for name, node in _definitions(module.tree, ""):
        at = f"{module.path}:{name}"
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if isinstance(node, ast.ClassDef):
            methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
            if lines > MAX_CLASS_LINES:
                yield node.lineno, f"class {at}", f"{lines} lines in class {name}, at most {MAX_CLASS_LINES}"
            if len(methods) > MAX_METHODS and not _is_protocol(node):
                yield node.lineno, f"methods {at}", f"{len(methods)} methods in class {name}, at most {MAX_METHODS}"
        else:
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            count = sum(each is not None and each.arg not in {"self", "cls"} for each in every)
            if lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"function {at}", f"{lines} lines in {name}, at most {MAX_FUNCTION_LINES}"
            if count > MAX_PARAMETERS:
                yield node.lineno, f"parameters {at}", f"{count} parameters of {name}, at most {MAX_PARAMETERS}"


def _definitions(
    node: ast.AST, prefix: str
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")
        else:
            yield from _definitions(child, prefix)


def _is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(each).partition("[")[0].endswith("Protocol") for each in node.bases)


RULES: tuple[Callable[[Module], Iterable[Finding]], ...] = (
    layers,
    pure_logic,
    lowest_layer_needs_little,
    transports_meet_the_core_at_the_seam,
    no_own_import_in_functions,
    file_names,
    package_files_are_empty,
    no_global_statement,
    every_task_has_an_owner,
    no_swallowed_exception,
    budgets,
)


def cycles(modules: Iterable[Module]) -> list[str]:
    """The strongly connected components of more than one module; imports for type checkers do not count."""
    names = {module.name for module in modules}
    graph = {
        module.name: {
            each.target
            for each in module.imports
            if each.target in names and not each.type_only and not each.in_function
        }
        for module in modules
    }
    reach = {name: _reachable(graph, name) for name in graph}
    found = {frozenset({name, *(other for other in reach[name] if name in reach[other])}) for name in graph}
    return [" <-> ".join(sorted(each)) for each in found if len(each) > 1]


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(graph[name])
    return seen


def _modules() -> list[Module]:
    paths = [*ROOT.glob("actorlite/**/*.py"), *ROOT.glob("transports/**/*.py")]
    return [Module(path.relative_to(ROOT).as_posix(), path.read_text()) for path in sorted(paths)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Callable[[Module], Iterable[Finding]]) -> None:
    modules = _modules()
    assert len(modules) > 10
    found = [f"{module.path}:{line}: {text}" for module in modules for line, text in rule(module)]
    assert not found, "\n" + "\n".join(found)


def test_there_are_no_import_cycles() -> None:
    assert cycles(_modules()) == []


def test_the_documentation_shows_the_same_layers() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    shown = re.findall(r"^(\d+) +([\w ]+)$", text, re.M)
    assert [(int(number), frozenset(names.split())) for number, names in shown] == list(enumerate(LAYERS))


def test_every_allowance_is_needed_and_has_a_reason() -> None:
    over = {key for module in _modules() for _, key, _ in _over_budget(module)}
    late = {key for key in ALLOWED if key.startswith("import ") and _is_late_import(*key[7:].split(":"))}
    assert ALLOWED.keys() - over - late == set(), "no longer needed: remove it from ALLOWED"
    assert all(len(reason) > 20 for reason in ALLOWED.values())


def _is_late_import(path: str, target: str) -> bool:
    return f'import_module("{target}")' in (ROOT / path).read_text()


METHODS = "\n".join(f"    def m{number}(self): return 1" for number in range(21))

BAD: tuple[tuple[Callable[[Module], Iterable[Finding]], str, str, str], ...] = (
    (layers, "actorlite/rpc/peer.py", "from actorlite.runtime.submit import x", "upward: rpc .layer 3.*runtime"),
    (layers, "actorlite/rpc/peer.py", "from actorlite import api", "upward: rpc"),
    (layers, "actorlite/rpc/peer.py", "from ..node import leases", "upward: rpc"),
    (layers, "actorlite/session.py", "import actorlite", "upward: session"),
    (layers, "actorlite/session.py", "import actorlite.testing.leaks", "upward: session"),
    (layers, "actorlite/wire/messages.py", "from actorlite.state.actors import x", "sideways: wire imports state"),
    (layers, "actorlite/node/daemon.py", "if TYPE_CHECKING:\n    import actorlite.worker.process", "sideways"),
    (layers, "actorlite/nowhere.py", "", "no place in LAYERS"),
    (layers, "actorlite/api.py", "import actorlite.nowhere", "no place in LAYERS"),
    (pure_logic, "actorlite/state/actors.py", "import os.path", "pure.*os.path"),
    (pure_logic, "actorlite/wire/framing.py", "def f():\n    from time import monotonic", "pure.*time"),
    (lowest_layer_needs_little, "actorlite/options.py", "import uvloop", "standard library and"),
    (transports_meet_the_core_at_the_seam, "transports/actorlite_transports/tcp.py", "import actorlite.host", "only"),
    (transports_meet_the_core_at_the_seam, "actorlite/api.py", "import actorlite_transports.tcp", "never imports"),
    (transports_meet_the_core_at_the_seam, "actorlite/api.py", "import transports.x", "is a folder"),
    (no_own_import_in_functions, "actorlite/api.py", "def f():\n    from actorlite import ids", "inside a function"),
    (no_own_import_in_functions, "actorlite/api.py", "x = import_module('actorlite.ids')", "by a call"),
    (file_names, "actorlite/rpc/utils.py", "", "says nothing"),
    (package_files_are_empty, "actorlite/rpc/__init__.py", "'''Doc.'''\nx = 1", "nothing else"),
    (package_files_are_empty, "actorlite/rpc/__init__.py", "", "has a docstring"),
    (package_files_are_empty, "actorlite/__init__.py", "'''Doc.'''\ndef f(): ...", "only re-exports"),
    (
        package_files_are_empty,
        "actorlite/__init__.py",
        "'''Doc.'''\nif TYPE_CHECKING:\n    from x import *\nelse:\n    def f(): ...",
        "at once or by",
    ),
    (package_files_are_empty, "actorlite/interface.py", "'''Doc.'''\ndef f(): ...", "only re-exports"),
    (no_global_statement, "actorlite/api.py", "def f():\n    global x\n    x = 1", "global x"),
    (every_task_has_an_owner, "actorlite/api.py", "asyncio.create_task(f())", "nobody keeps"),
    (every_task_has_an_owner, "actorlite/api.py", "create_task(f())", "nobody keeps"),
    (no_swallowed_exception, "actorlite/api.py", "try:\n    f()\nexcept Exception:\n    pass", "swallows"),
    (no_swallowed_exception, "actorlite/api.py", "try:\n    f()\nexcept (OSError, BaseException): ...", "swallows"),
    (no_swallowed_exception, "actorlite/api.py", "with contextlib.suppress(Exception):\n    f()", "suppresses"),
    (budgets, "actorlite/api.py", "x = 1\n" * 601, "601 lines in a file"),
    (budgets, "actorlite/api.py", "class C:\n" + "    x = 1\n" * 300, "301 lines in class C"),
    (budgets, "actorlite/api.py", f"class C:\n{METHODS}", "21 methods in class C"),
    (budgets, "actorlite/api.py", "class C:\n    def f(self):\n" + "        x = 1\n" * 60, "61 lines in C.f"),
    (budgets, "actorlite/api.py", "def f(a, b, /, c, *d, e, f, g, h, **i): ...", "9 parameters of f"),
)

GOOD: tuple[tuple[Callable[[Module], Iterable[Finding]], str, str], ...] = (
    (
        layers,
        "actorlite/rpc/peer.py",
        "from . import pool\nfrom actorlite.wire.messages import x\nimport actorlite.host",
    ),
    (layers, "actorlite/testing/cluster.py", "import actorlite as al\nfrom actorlite.session import x"),
    (layers, "actorlite/refs.py", "from actorlite.context import find_runtime"),
    (pure_logic, "actorlite/rpc/peer.py", "import asyncio"),
    (transports_meet_the_core_at_the_seam, "transports/actorlite_transports/tcp.py", "import actorlite.transport"),
    (no_own_import_in_functions, "actorlite/api.py", "def f():\n    import json"),
    (package_files_are_empty, "actorlite/__init__.py", "'''Doc.'''\nfrom actorlite.api import get\n__all__ = ['get']"),
    (every_task_has_an_owner, "actorlite/api.py", "tg.create_task(f())\ntask = asyncio.create_task(f())"),
    (no_swallowed_exception, "actorlite/api.py", "try:\n    f()\nexcept OSError:\n    pass"),
    (budgets, "actorlite/api.py", f"class C(Protocol[T]):\n{METHODS}"),
    (budgets, "actorlite/api.py", "class C:\n    def f(self, a, b, c, d, e, f, g, *h): ..."),
)


@pytest.mark.parametrize(("rule", "path", "source", "message"), BAD)
def test_each_rule_fires(rule: Callable[[Module], Iterable[Finding]], path: str, source: str, message: str) -> None:
    found = [f"{line}: {text}" for line, text in rule(Module(path, source))]
    with pytest.raises(AssertionError, match=message):
        assert not found, "\n".join(found)


@pytest.mark.parametrize(("rule", "path", "source"), GOOD)
def test_what_is_allowed_stays_allowed(rule: Callable[[Module], Iterable[Finding]], path: str, source: str) -> None:
    assert list(rule(Module(path, source))) == []


def test_a_cycle_is_found_and_type_only_imports_make_none() -> None:
    there = Module("actorlite/refs.py", "from actorlite.context import x")
    back = Module("actorlite/context.py", "from actorlite import ids, refs")
    typed = Module("actorlite/context.py", "if TYPE_CHECKING:\n    from actorlite.refs import x")
    assert cycles([there, back]) == ["actorlite.context <-> actorlite.refs"]
    assert cycles([there, typed]) == []
