"""What the command line shows live."""

from io import StringIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tars.cli.output import shown_live


def drawn(*told: int | None) -> str:
    """What stands on a terminal after so much was told."""
    console = Console(file=StringIO(), force_terminal=True, width=60)
    with shown_live(Live(console=console, auto_refresh=False), lambda n: Text(f"look {n}"), "nobody answers") as tell:
        for now in told:
            tell(now)
        file = console.file
        assert isinstance(file, StringIO)
        return file.getvalue().rpartition("\x1b[2K")[2]


def test_while_nobody_answers_the_last_picture_stays_and_a_line_says_so() -> None:
    assert "look 1" in drawn(1, None)
    assert "nobody answers" in drawn(1, None)
    assert "nobody answers" in drawn(None)


def test_when_somebody_answers_again_the_line_goes() -> None:
    assert "look 2" in drawn(1, None, 2)
    assert "nobody answers" not in drawn(1, None, 2)
