"""The house rules that no other tool holds: sizes, names, docstrings, walls, documents that must stay true.

Every rule names the place that breaks it. A limit is raised only in the commit that says why.
"""

from __future__ import annotations

import ast
import importlib.metadata
import io
import re
import shutil
import stat
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd import attribute_table, config, config_sections
from backupd.attributes import shown

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
LINE_CHARACTERS_MAX = 110
DOCSTRING_CHARACTERS_MIN = 30
SERVICE_EXPOSURE_MAX = 2.0

VAGUE = frozenset(
    {"util", "utils", "helper", "helpers", "common", "manager", "managers", "handler", "handlers"}
    | {"processor", "processors", "misc", "info", "data"}
)
FROM_ELSEWHERE = frozenset({"handler", "data"})
"""Words that libraries of ours impose on parameters; they stay forbidden for what we name ourselves."""

THE_COMMAND = "backup_info"
"""What `getBackupInfo`, a command of the specification, answers."""

SLEEPERS = frozenset({"backupd/clock.py", "tests/world/clocks.py"})
"""The two places that may wait on the event loop: the machine's clock and the tests' clock."""

FORBIDDEN = (
    (
        re.compile(r"/(?:home|Users)/[a-z][\w.-]*/|(?<![\w.])/work/|/tmp/(?!\$|\{)\w"),
        "a path into a workplace",
    ),
    (re.compile(r"pypi\.org/simple|files\.pythonhosted\.org|registry\.npmjs|index-url\s*="), "a registry"),
    (re.compile(r"(?i)\b(?:fix(?:es|ed)?|close[sd]?|issue|resolve[sd]?)\s*:?\s*#\d+"), "an issue number"),
)
PRAGMA = re.compile(r"\s+# (?:noqa|type: ignore).*")
REASONED = re.compile(r"noqa: [A-Z]+\d+(?:, ?[A-Z]+\d+)* - \w")
BINARY = frozenset({".png", ".ico", ".gz", ".xz", ".zst", ".woff2", ".eml"})


def tracked() -> list[Path]:
    """Every file of ours: tracked, or new and not ignored; in an unpacked archive, what is there."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\n")
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = {".venv", "build"}
        found = [path for path in ROOT.rglob("*") if not hidden & set(path.relative_to(ROOT).parts)]
    return sorted(path for path in found if path.is_file())


FILES = tracked()
SOURCES = [path for path in FILES if path.suffix == ".py"]
TREES = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def none_of(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def definitions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield path, node


def texts() -> Iterator[tuple[Path, str]]:
    for path in FILES:
        if path.suffix not in BINARY:
            yield path, path.read_text("utf-8", errors="replace")


def test_files_are_short() -> None:
    """No source file is longer than its limit."""
    long = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > FILE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    """No function is longer than its limit, decorators not counted."""
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}: {lines} lines"
        for path, node in definitions()
        if not isinstance(node, ast.ClassDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    none_of(long)


def test_lines_are_short() -> None:
    """No line of source is longer than its limit, not counting a lint exception at its end."""
    long = [
        f"{name_of(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if len(PRAGMA.sub("", line)) > LINE_CHARACTERS_MAX
    ]
    none_of(long)


def test_every_module_says_what_it_is_for() -> None:
    """Every module begins with a docstring whose first line is a sentence of some use."""
    mute = []
    for path, tree in TREES.items():
        if name_of(path).startswith("tests/") and path.name == "__init__.py":
            continue
        first = (ast.get_docstring(tree) or "").split("\n")[0]
        if len(first) < DOCSTRING_CHARACTERS_MIN or path.stem.replace("_", " ") == first.lower().rstrip("."):
            mute.append(f"{name_of(path)}: {first!r}")
    none_of(mute)


def words_of(identifier: str) -> set[str]:
    """Return the words of a snake_case or CamelCase name."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower()
    return set(spaced.replace(THE_COMMAND, "").strip("_").split("_"))


def test_names_say_something() -> None:
    """No file, class or function carries a vague word, and no parameter but those that libraries impose."""
    vague = [name_of(path) for path in SOURCES if words_of(path.stem) & VAGUE]
    for path, node in definitions():
        if words_of(node.name) & VAGUE:
            vague.append(f"{name_of(path)}:{node.lineno} {node.name}")
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        vague += [
            f"{name_of(path)}:{node.lineno} {node.name}({argument.arg})"
            for argument in arguments
            if words_of(argument.arg) & (VAGUE - FROM_ELSEWHERE)
        ]
    none_of(vague)


def imports() -> Iterator[tuple[Path, int, str]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((path, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                yield from ((path, node.lineno, f"{module}.{alias.name}") for alias in node.names)


def test_types_are_learned_in_one_place() -> None:
    """Nobody lets msgspec learn a type on the way: two threads that do so at once end the process."""
    elsewhere = []
    for path, tree in TREES.items():
        if not name_of(path).startswith(("backupd/", "daemon/")) or path.stem == "decoding":
            continue
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = ast.unparse(call.func)
            has_type = called.endswith(".decode") and any(word.arg == "type" for word in call.keywords)
            if called.startswith("msgspec.") and (has_type or called.endswith(("Decoder", ".convert"))):
                elsewhere.append(f"{name_of(path)}:{call.lineno} {called}")
    none_of(elsewhere)


def test_nothing_is_mocked() -> None:
    """Nobody imports `unittest.mock` or a library around it: fakes stand in tests/world."""
    mocks = re.compile(r"(unittest\.mock|mock|pytest_mock|asynctest)(\.|\Z)")
    found = [f"{name_of(path)}:{line}" for path, line, module in imports() if mocks.match(module)]
    mocker = [
        f"{name_of(path)}:{node.lineno}"
        for path, node in definitions()
        if not isinstance(node, ast.ClassDef) and any(one.arg == "mocker" for one in node.args.args)
    ]
    none_of(found + mocker)


def test_tasks_belong_to_a_group() -> None:
    """Nobody starts a task outside a group, and nobody waits for time but through the clock."""
    loose = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("asyncio.create_task", "asyncio.ensure_future") or called.endswith(
                "loop.create_task"
            ):
                loose.append(f"{name_of(path)}:{node.lineno} {called}")
            waits = called == "asyncio.sleep" and name_of(path) not in SLEEPERS
            if waits and not name_of(path).startswith("tests/"):
                loose.append(f"{name_of(path)}:{node.lineno} {called}")
    none_of(loose)


def test_nothing_tells_of_a_workplace() -> None:
    """No file holds a path into somebody's workplace, a registry's host or an issue number."""
    this = Path(__file__).resolve()
    found = [
        f"{name_of(path)}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match.group()}"
        for path, text in texts()
        if path != this
        for pattern, what in FORBIDDEN
        for match in pattern.finditer(text)
    ]
    none_of(found)


def test_exceptions_from_lint_have_a_reason() -> None:
    """Every `noqa` names its rules and says why, every `type: ignore` names its error.

    An exception for a whole file has its reason in the comment above it.
    """
    bare = []
    for path in SOURCES:
        above = ""
        for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
            if token.type != tokenize.COMMENT:
                continue
            whole_file = (
                re.match(r"# ruff: noqa: [A-Z]", token.string) and len(above) > DOCSTRING_CHARACTERS_MIN
            )
            unreasoned = "noqa" in token.string and not REASONED.search(token.string) and not whole_file
            if unreasoned or re.search(r"type: ignore(?!\[)", token.string):
                bare.append(f"{name_of(path)}:{token.start[0]} {token.string}")
            above = token.string
    none_of(bare)


def test_one_license_and_no_headers() -> None:
    """The LICENSE file speaks for all; no source repeats it, and only scripts may be executed."""
    headers = re.compile(r"(?im)^\s*#.*(?:copyright|spdx-license|licensed under)")
    assert [name_of(path) for path in SOURCES if headers.search(path.read_text("utf-8"))] == []
    executable = [path for path in FILES if path.stat().st_mode & stat.S_IXUSR]
    assert [name_of(path) for path in executable if not path.read_bytes().startswith(b"#!")] == []
    assert (ROOT / "LICENSE").read_text("utf-8").strip()


def test_the_annotated_configuration_loads() -> None:
    """config/backupd.toml is valid as it stands and shows every key."""
    file = ROOT / "config" / "backupd.toml"
    config.load(file, environ={}, uid=0)
    text = file.read_text("utf-8")
    for section, struct in config_sections.SECTIONS.items():
        part = text.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        for key in struct.__struct_fields__:
            assert re.search(rf"(?m)^#?{key} = ", part), f"{section}.{key} is not shown"


def test_the_annotated_defaults_are_true(tmp_path: Path) -> None:
    """The values that config/backupd.toml shows as a service's defaults are the defaults."""
    text = (ROOT / "config" / "backupd.toml").read_text("utf-8")
    shows = tmp_path / "shown.toml"
    shows.write_text(re.sub(r"(?m)^#(?=[a-z_]+ = )", "", text), "utf-8")
    as_shown = config.load(shows, environ={}, uid=0)
    default = config.load(ROOT / "config" / "backupd.toml", environ={}, uid=0)
    examples = {"id", "name", "username", "password_file", "ca_file", "certificate_file", "key_file", "group"}
    examples |= {"smtp_host", "smtp_ca_file", "smtp_username", "smtp_password_file", "sender", "listen"}
    examples |= {"webhook_url", "webhook_token_file", "ping_url", "key_command"}
    for section, struct in config_sections.SECTIONS.items():
        for key in set(struct.__struct_fields__) - examples - {"workers"}:
            assert getattr(getattr(as_shown, section), key) == getattr(getattr(default, section), key), key


def folders() -> set[str]:
    """Every folder that holds a file of ours, but the tests' inner ones below their first floor."""
    names = set()
    for path in FILES:
        parts = path.relative_to(ROOT).parts[:-1]
        names |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
    return {name for name in names if not re.match(r"tests/\w+/", name)}


def test_the_architecture_names_every_folder() -> None:
    """docs/architecture.md names every folder that exists, and none that does not."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:\.?[\w-]+/)+)`", text))
    there = {f"{name}/" for name in folders()}
    assert there - named == set(), "folders that docs/architecture.md does not name"
    assert {name for name in named if not (ROOT / name).is_dir()} == set(), "named, but not there"


def test_the_attributes_page_is_the_table() -> None:
    """docs/attributes.md has a row for every attribute, in order, and the row says what the table says."""
    text = (ROOT / "docs" / "attributes.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == [attribute_row(attribute) for attribute in attribute_table.TABLE]


def attribute_row(attribute: attribute_table.Attribute) -> str:
    effect = f"no effect here: {attribute.no_effect}" if attribute.no_effect else "yes"
    levels = ", ".join(attribute.levels)
    default = f"`{shown(attribute.default)}`"
    return (
        f"| `{attribute.name}` | {levels} | {attribute.type.value} | {default} "
        f"| {attribute.range} | {attribute.meaning} | {effect} |"
    )


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is missing: install systemd")
def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    """Systemd finds nothing to say about the unit (it exits 0 for unknown keys), and little exposure."""
    text = (ROOT / "systemd" / "backupd.service").read_text("utf-8")
    unit = tmp_path / "backupd.service"
    # The daemon's own environment is not on this machine: any program stands in for it.
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text), "utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    ours = [line for line in verified.stderr.splitlines() if "backupd" in line or str(unit) in line]
    assert (ours, verified.stdout, verified.returncode) == ([], "", 0), verified.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    score = re.search(r"exposure level for backupd.service: ([\d.]+)", judged.stdout)
    assert score is not None, judged.stderr
    assert float(score.group(1)) <= SERVICE_EXPOSURE_MAX


def test_the_import_name_daemon_is_ours() -> None:
    """The distribution `python-daemon`, which brings the same import name, is not in our environment."""
    owners = importlib.metadata.packages_distributions().get("daemon", ["backupd"])
    assert set(owners) == {"backupd"}
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("python-daemon")
