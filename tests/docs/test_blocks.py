"""Every block of code in README and docs/ is run, and what it is said to print is what it prints.

A block is a program of docs/examples, which a comment before it names (``.. examples/client.py``,
or ``.. examples/client.py: ask`` for a part) and test_examples.py or a test elsewhere runs;
or Python that a test executes (see ``runs``); or commands, whose arguments the real parsers read.
Where the output is shown as well, as in the tutorial, the commands are run.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

import trio_tlsbio
import trio_tlsbio.testing
from tests.docblocks import BLOCKS, CLAIMED, Block, docstring_blocks, pages
from tests.helpers import DOCS, ROOT
from trio_tlsbio.cli import _parser

README = ROOT / "README.md"

QUICK_START = [
    "python3 -m venv .venv && .venv/bin/pip install -q '.[demo]'"
    " && .venv/bin/python -m trio_tlsbio demo",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest",
]


################################################################
# The code in the text
################################################################


def markdown_blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_readme_shows_the_examples() -> None:
    assert markdown_blocks("python") == [
        (DOCS / "examples" / name).read_text(encoding="utf-8")
        for name in ("server.py", "client.py")
    ]


SHOWN = [block for block in BLOCKS if block.source is not None]


@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_pages_show_the_examples(shown: Block) -> None:
    """Hosts of code don't include files in pages, so the code stands in both."""
    assert shown.text.rstrip("\n") == shown.source_text().rstrip("\n"), (
        f"{shown} is not what {shown.source} has: copy that"
    )


def test_the_examples_stand_in_pages() -> None:
    shown = {block.source for block in SHOWN}
    for path in (DOCS / "examples").glob("*.py"):
        assert f"examples/{path.name}" in shown, f"no page shows {path.name}"


def test_code_fits_into_a_page() -> None:
    for block in BLOCKS:
        if block.language == "python":
            for number, line in enumerate(block.text.split("\n")):
                assert len(line) <= 80, f"{block.page}:{block.line + number}"


def test_readme_quick_start() -> None:
    assert markdown_blocks("sh") == ["\n".join(QUICK_START) + "\n"]


def test_readme_links() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_no_page_installs_a_name_that_is_not_ours() -> None:
    """In running text; commands are looked at below. The page of errors quotes messages."""
    for path in (README, *(page for page in pages() if page.name != "errors.rst")):
        for target in re.findall(r"pip install '?([^\s'`]+)", path.read_text(encoding="utf-8")):
            assert not target.startswith("trio"), f"{path.name}: {target}"


################################################################
# Text
################################################################


def text_blocks(page: str) -> list[Block]:
    return [block for block in BLOCKS if block.page == page and block.language == "text"]


def test_closing_quotes_the_code() -> None:
    (block,) = text_blocks("closing.rst")
    quoted = " ".join(block.text.split())
    assert f"\n``{quoted}``\n" in (DOCS / "errors.rst").read_text(encoding="utf-8")


################################################################
# Commands
################################################################


def commands(block: Block) -> list[str]:
    """Return the commands of a block for a shell."""
    lines = block.text.replace("\\\n", "").splitlines()
    if block.language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def benchmark_parser() -> argparse.ArgumentParser:
    """Build the parser of the benchmarks, which can't be imported without what they measure."""
    tree = ast.parse((ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8"))
    (main,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
    lines = [ast.unparse(n) for n in main.body if re.match(r"parser( =|\.add)", ast.unparse(n))]
    names: dict[str, Any] = {"argparse": argparse, "Path": Path, "GROUPS": ["bulk"], "__doc__": ""}
    exec("\n".join(lines), names)
    parser = names["parser"]
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def check_pip(args: list[str]) -> None:
    assert args[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for arg in args[1:]:
        if arg.startswith("-"):
            assert arg in {"-q", "-e"}
            continue
        # A bare name would be looked up on PyPI, where the project isn't.
        match = re.fullmatch(r"(?:\.|\.\./trio-tlsbio)(?:\[([\w,]+)\])?", arg)
        assert match is not None, arg
        extras = match[1].split(",") if match[1] else []
        assert set(extras) <= project["optional-dependencies"].keys()


def is_of_a_fleet(words: list[str]) -> bool:
    """Whether a command is known to world/test_fleet.py, which does to a fleet what it would do."""
    match words:
        case ["socat", "stdio", "/run/haproxy.sock"] | ["rm", "tickets.new"]:
            return True
        case ["scp", "-p", "tickets.new", target]:
            return target.endswith(":/run/fleet/tickets.new")
        case ["ssh", _, *command]:
            rename = ["mv", "/run/fleet/tickets.new", "/run/fleet/tickets.key"]
            return command in (
                rename,
                ["systemctl", "stop", "fleet"],
                ["systemctl", "start", "fleet"],
            )
        case ["sudo", "python", "fleet.py", *args]:
            return args in ([], ["--stay", "600"])
    return False


def check_command(words: list[str]) -> None:
    """Let the real parser read a command; raise if nobody here knows it."""
    program = words[0].removeprefix(".venv/bin/")
    match [program, *words[1:]]:
        case ["python" | "python3", "-m", "trio_tlsbio", *args] | ["trio-tlsbio", *args]:
            _parser().parse_args(args)
        case ["python", "benchmarks", *args]:
            benchmark_parser().parse_args(args)
        case ["python3", "-m", "venv", ".venv"] | [".", ".venv/bin/activate"]:
            pass
        case ["python", "-m", "pytest" | "trustme"] | ["mkdir" | "cd" | "echo", _]:
            pass
        case ["umask", "077"] | ["openssl", "rand", "80", ">", "tickets.key" | "tickets.new"]:
            pass
        case ["python", name] if name.endswith(".py"):
            assert any(
                block.page == "tutorial.rst" and block.source and f"`{name}`" in block.before
                for block in BLOCKS
            )
        case ["pip", *args]:
            check_pip(args)
        case _:
            assert is_of_a_fleet(words), f"no test knows the command {shlex.join(words)}"


SHELL = [block for block in BLOCKS if block.language in {"sh", "console"}]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block.ran = True
    for line in commands(block):
        for command in re.split(r" && | \| ", line):
            words = shlex.split(command)
            for word in words:  # what has to be there
                if word.endswith((".pem", ".key")) and not word.startswith("/"):
                    Path(word).touch()
            check_command(words)


def test_wrong_commands_are_found() -> None:
    for command in (
        "python -m trio_tlsbio serve --colour",
        "python benchmarks --slowly",
        "pip install '.[everything]'",
        "pip install 'trio-tlsbio[demo]'",
        "rm -r /",
        "python unknown.py",
    ):
        with pytest.raises((SystemExit, AssertionError, pytest.fail.Exception)):
            check_command(shlex.split(command))


################################################################
# No block is left out
################################################################


def test_every_block_is_run() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):  # tests of blocks may be anywhere
        if re.search(r"^@runs\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    examples = {path.name for path in (DOCS / "examples").glob("*.py")}
    # See world/test_fleet.py.
    examples |= {f"../examples/fleet/{path.name}" for path in (ROOT / "examples/fleet").iterdir()}
    readme = [block for block in BLOCKS if block.page == "README.md" and block.language == "python"]
    # See above, test_errors_page.py, cli/test_page.py and cli/test_www.py.
    texts = {"cli.rst", "closing.rst", "errors.rst", "servers.rst"}
    for block in BLOCKS:
        if block.source is not None:
            # test_examples.py sees that each of them has a test.
            assert block.source.removeprefix("examples/") in examples, block
        elif block.language == "python" and block not in readme:
            assert block in CLAIMED, f"{block} is run by no test: see runs() in docblocks.py"
        elif block.language in {"json", "text"}:
            assert block.page in texts, f"{block} is compared with nothing"
        else:
            assert block in readme or block in SHELL, f"{block}: {block.language}?"


def test_examples_in_docstrings_name_what_there_is() -> None:
    """They are pieces, and not run; but they are Python, and their arguments have real names."""
    package = Path(trio_tlsbio.__file__).parent
    blocks = [block for path in package.rglob("*.py") for block in docstring_blocks(path)]
    assert len(blocks) >= 5
    for block in blocks:
        compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(block.text)):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(trio_tlsbio, ast.unparse(node.func), None)
            if called is not None:
                names = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(called).bind(*node.args, **names)
