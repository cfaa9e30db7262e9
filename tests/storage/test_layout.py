"""Only `storage.layout` knows a key below a root, and the documentation has every key."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import layout

ROOT = Path(__file__).parents[2]
PACKAGES = ("nightreel", "flows", "tasks", "storage", "manifests")
NEVER_BELOW_A_ROOT = ("tasks/emulator/", "tasks/providers/", "tasks/worker/")
"""Code that has its own URLs and files, and opens no root."""

CONSTANTS = {
    name: value
    for name, value in vars(layout).items()
    if name.isupper() and isinstance(value, str)
}
TOP = sorted({value.partition("/")[0] for value in CONSTANTS.values()})
FOLDERS = [name for name in TOP if "." not in name]
FILES = [name for name in TOP if "." in name]

KEY = re.compile(
    rf"(?<![\w.-])(?:{'|'.join(FOLDERS)})/|{'|'.join(map(re.escape, FILES))}"
)
REQUESTS = {
    *("create", "create_file", "put", "put_file", "get", "get_file", "modified"),
    *("list", "first", "folders", "delete", "uri"),
}
"""The methods of `Objects` that take a key or a folder."""


def modules() -> Iterator[tuple[str, str]]:
    """The path and source of each module that may have no key."""
    for path in (each for name in PACKAGES for each in (ROOT / name).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name != "storage/layout.py" and not name.startswith(NEVER_BELOW_A_ROOT):
            yield name, path.read_text("utf-8")


def literal_keys(source: str) -> list[str]:
    """The literals of a module that are keys below a root, or parts of one."""
    tree = ast.parse(source)
    quiet = {id(text) for text in documentation(tree)}
    found: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text) if id(node) not in quiet:
                found += [text] if KEY.search(text) else []
            case ast.JoinedStr(values=parts):
                found += [ast.unparse(node)] if continues_key(parts) else []
            case ast.BinOp(op=ast.Add(), left=left) if is_layout(left):
                found.append(ast.unparse(node))
            case ast.Call(func=ast.Attribute() as method, args=[key, *_]) if asks_store(
                method
            ) and isinstance(key, ast.Constant | ast.JoinedStr):
                found.append(ast.unparse(node))
            case _:
                pass
    return found


def documentation(tree: ast.AST) -> Iterator[ast.Constant]:
    """Docstrings: strings that are statements."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text
            case _:
                pass


def continues_key(parts: list[ast.expr]) -> bool:
    """Whether an f-string adds something below a key of `layout`."""
    for number, part in enumerate(parts[:-1]):
        match part, parts[number + 1]:
            case ast.FormattedValue(value=value), ast.Constant(value=str() as text):
                # A slash at the end only makes the key the prefix of a folder.
                ends = text == "/" and number + 2 == len(parts)
                if is_layout(value) and text.startswith("/") and not ends:
                    return True
            case _:
                pass
    return False


def is_layout(node: ast.expr) -> bool:
    """Whether a value comes from `layout`."""
    match node:
        case ast.Attribute(value=ast.Name(id="layout")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="layout"))):
            return True
        case _:
            return False


def asks_store(method: ast.Attribute) -> bool:
    return method.attr in REQUESTS and ast.unparse(method.value).endswith("objects")


def test_no_other_module_has_a_key():
    """Every other product module takes each key from `storage.layout`."""
    found = {name: literal_keys(source) for name, source in modules()}

    assert {name: keys for name, keys in found.items() if keys} == {}


@pytest.mark.parametrize(
    "source",
    [
        'await objects.get("a.json")',
        'await self._objects.list("shards")',
        'key = f"clips/{job[:2]}/{job}.mp4"',
        'KEY: Final = "paused.json"',
        'at = f"{root}/tables/{name}"',
        'PATTERN = re.compile(r"ledger/[^/]+/main")',
        'key = f"{layout.TABLES}/clips"',
        'key = f"{layout.SPILL}/{name}"',
        'key = f"{layout.streams(batch)}/main"',
        'key = layout.SPILL + "/x"',
        'await objects.put(f"{name}.json", b"")',
    ],
)
def test_each_way_to_write_a_key_is_found(source):
    """The search finds a key in whatever form a module has it."""
    assert literal_keys(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""clips/ab/abcd….mp4 is the clip."""',
        "await objects.get(layout.ROOT)",
        'f"{root}/{layout.INBOX}/".startswith(prefix)',
        'f"{layout.CREATE_ONLY} was put a second time"',
        'log.info("the tables and clips are written")',
    ],
)
def test_other_text_is_no_key(source):
    assert literal_keys(source) == []


# -- the reference page

SAMPLES = {
    "batch": "000003-tonight",
    "digest": "d",
    "epoch": 3,
    "first": 1,
    "generation": 2,
    "job": "abcd…",
    "key": "ledger/epochs/000001.json",
    "number": 1,
    "sha256": "0123…",
    "shard": 7,
    "stream": "ledger/000003-tonight/main",
    "suffix": "mp4",
    "last": 256,
}
NAMES = {
    "stream": "main",
    "table": "clips",
    "tables": "clips",
    "clock": "x",
    "spill": "x",
}
"""By function: its sample name."""


def built() -> dict[str, str]:
    """The key that each function of `layout` builds from samples."""
    keys: dict[str, str] = {}
    for name, function in inspect.getmembers(layout, inspect.isfunction):
        samples = {**SAMPLES, "name": NAMES.get(name)}
        wanted = inspect.signature(function).parameters.values()
        keys[name] = function(
            **{x.name: samples[x.name] for x in wanted if x.default is x.empty}
        )
    del keys["shard"]  # the name of a stream, not a key
    keys["sidecar"] = layout.clip("abcd…", "json")
    keys["last_usage"] = layout.usage("000003-tonight", 7, 2, last=True)
    keys["shard_stream"] = layout.stream("000003-tonight", layout.shard(7, 1))
    for table in ("attempts", "complaints", "left"):
        keys[table] = layout.table(table, "000003-tonight")
    return keys | CONSTANTS


def documented() -> list[str]:
    page = (ROOT / "docs/reference/root.md").read_text("utf-8")
    block = page.partition("```text\n")[2].partition("```")[0]
    return [line.split()[0] for line in block.splitlines() if not line.startswith(" ")]


def test_every_key_is_documented():
    """The reference page has each key, or the folder that it is in."""
    page = documented()

    missing = {
        name: key
        for name, key in built().items()
        if not any(
            key == line
            or f"{line.rstrip('/')}/".startswith(f"{key}/")
            or (line.endswith("/") and key.startswith(line))
            for line in page
        )
    }

    assert missing == {}


def test_every_documented_key_exists():
    """The reference page has no key that `storage.layout` cannot build."""
    keys = built().values()

    assert [
        line
        for line in documented()
        if not any(f"{key}/".startswith(f"{line.rstrip('/')}/") for key in keys)
    ] == []
