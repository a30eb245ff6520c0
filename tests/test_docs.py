"""README and docs are true: links lead somewhere, commands and options exist, named files are there."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

from cxr import cli

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BEAM_OPTION = re.compile(r"--(runner|setup_file|direct_num_workers|flink_master|environment_(type|config))$")
"""Options in the docs that `cxr preprocess` passes on to Beam."""
"""Commands that are being removed."""
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced code blocks of some languages; "" is a block without one."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in fenced if language in languages]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead to no file or no heading."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def commands(text: str) -> list[list[str]]:
    """Every `cxr ...` of the code blocks and code spans, as words without what a shell or a comment adds."""
    code = [*blocks(text, "sh", ""), *re.findall(r"`(cxr [a-zA-Z-][^`\n]*)`", text)]
    found = []
    for line in "\n".join(code).replace("\\\n", " ").splitlines():
        match = re.match(r"(?:\$ |\w+=\S+ )*(cxr [a-zA-Z-].*)", line.strip())
        if match:
            found.append(shlex.split(match[1], comments=True))
    return found


@functools.cache
def options_of(command: str) -> set[str]:
    """The options that `cxr COMMAND --help` lists."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([command, "--help"])
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", shown.getvalue()))


def wrong(words: list[str]) -> list[str]:
    """What of a command line does not exist: the command, or some of its options."""
    command, *rest = words[1:]
    if command.startswith("--"):
        return []
    if command not in cli.COMMANDS:
        return [command] if command != "COMMAND" else []
    options = {word.split("=")[0] for word in rest if word.startswith("--")}
    unknown = options - options_of(command) - {"--help"}
    return sorted(word for word in unknown if command != "preprocess" or not BEAM_OPTION.match(word))


@each_page
def test_links_resolve(page):
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@each_page
def test_commands_and_options_exist(page):
    faults = {" ".join(words): wrong(words) for words in commands(page.read_text(encoding="utf-8"))}
    assert not {line: fault for line, fault in faults.items() if fault}


def test_such_faults_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One page\n[a](page.md#one-page) [b](#nothing) [c](absent.md) [d](https://example.org)\n")
    assert broken_links(page, page.read_text()) == ["#nothing", "absent.md"]
    text = "```sh\nKERAS_BACKEND=jax cxr train --run r \\\n    --epoch 3  # a comment\n```\n"
    text += "`cxr trian`\n```\n$ cxr board x\n```\n"
    assert [wrong(words) for words in commands(text)] == [["--epoch"], [], ["trian"]]


def test_the_readme_is_short():
    assert (REPOSITORY / "README.md").stat().st_size < 10_000


def test_the_readme_names_every_page_and_command():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[2:] if f"docs/{page.name}" not in text] == []
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in cli.COMMANDS if f"cxr {name}" not in everything] == []


@each_page
def test_python_examples_parse_and_import_what_there_is(page):
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        for node in ast.walk(ast.parse(block)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                path = REPOSITORY / name.replace(".", "/")
                ours = name.split(".")[0] in {"cxr", "tfrecords", "trainer", "tuner"}
                there = path.is_dir() or path.with_suffix(".py").exists() if ours else importlib.util.find_spec(name)
                assert there, f"{page.name} imports {name}"


@each_page
def test_files_that_are_named_exist(page):
    named = re.findall(
        r"`((?:cxr|beam_jobs|tfrecords|phantoms|trainer|tuner|tests|benchmarks)/[\w/.-]*)`",
        page.read_text(encoding="utf-8"),
    )
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_modules_in_the_picture_exist():
    picture = (REPOSITORY / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    modules = re.findall(r"monospace\">([^<]+)<", picture)
    assert len(modules) > 15
    for name in ", ".join(modules).split(", "):
        pattern = f"**/{name.rstrip('/')}"
        assert any(next((REPOSITORY / package).glob(pattern), None) or (REPOSITORY / name).exists()
                   for package in ("tfrecords", "beam_jobs", "trainer", "tuner")), name  # fmt: skip
