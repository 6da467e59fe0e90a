"""What the pages tell people to type exists, and what they say is printed is printed."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from tars.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TYPED = re.compile(r"^tars [^\n]*$", re.MULTILINE)
NAMED = re.compile(r"`(tars [^`\n]+)`")
SOURCES = "\n".join(
    path.read_text()
    for folder in ("agents", "automl_worker", "consumers", "producers", "runtime", "schemas", "sync_worker", "tars/cli")
    for path in (ROOT / folder).rglob("*.py")
)


def lines(page: Path) -> Iterator[list[str]]:
    """The words of every command line on a page, in blocks and in sentences."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
    for line in (*TYPED.findall(blocks), *NAMED.findall(text)):
        if not re.search(r"…|\.\.\.|<role>", line):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_on_a_page_exists_with_its_options(page: Path) -> None:
    for words in lines(page):
        command, rest = typer.main.get_command(app), words
        while rest and (below := getattr(command, "commands", {}).get(rest[0])):
            command, rest = below, rest[1:]
        assert command.name != "tars" or rest[0].startswith("--"), f"{page.name}: there is no tars {' '.join(words)}"
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        assert [word for word in rest if re.match(r"--?[a-z]", word) and word not in known] == [], (
            f"{page.name}: {words}"
        )


def test_each_message_of_the_troubleshooting_page_is_one_of_ours() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    shown = [found[1] for line in page.splitlines() if (found := re.match(r"\| `([^`]+)`", line))]
    parts = [part.strip(" :;") for message in shown for part in message.split("…")]
    told = re.sub(r'"\s*\n\s*f?"', "", SOURCES)  # a message over two lines of code
    assert len(shown) > 20
    assert [part for part in parts if len(part) > 6 and part not in told] == []
