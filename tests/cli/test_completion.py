"""What the Tab key offers, asked as a shell asks."""

from collections.abc import Callable

import pytest

from tars.cli import completion
from tars.schemas.views import AgentRow

COMMANDS = ["agents", "apply", "approve", "doctor", "watch", "study", "keys"]
Offered = Callable[..., list[str]]


@pytest.fixture
def offered(tars: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> Offered:
    """The words that a shell is offered at the end of a line; no server answers."""

    def ask(line: str, shell: str = "bash") -> list[str]:
        place = len(line.split()) - (0 if line.endswith(" ") else 1)
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(place), "_TYPER_COMPLETE_ARGS": line}
        asked |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TARS_COMPLETE": f"complete_{shell}"}
        for name, value in {**asked, "NATS_URL": "nats://127.0.0.1:9"}.items():
            monkeypatch.setenv(name, value)
        _, out, err = tars()
        assert err == ""
        return out.split()

    return ask


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_are_offered_in_each_shell(offered: Offered, shell: str) -> None:
    words = " ".join(offered("tars ", shell))
    assert [command for command in COMMANDS if command not in words] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tars study w", ["watch"]),
        ("tars propose --set l", ["learning_rate=", "learning_starts="]),
        ("tars keys new ada --role app", ["approver"]),
        ("tars run co", ["coordinator", "consumers"]),
        ("tars approve ", []),  # nobody answers, and nobody complains
    ],
)
def test_what_can_follow_is_offered(offered: Offered, line: str, words: list[str]) -> None:
    assert offered(line) == words


def test_ids_are_those_that_there_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [AgentRow(agent_id=name, role=role) for name, role in (("policy-0", "policy"), ("ethical-0", "ethical"))]
    monkeypatch.setattr(completion, "_rows", lambda _: rows)
    assert completion.agents("po") == ["policy-0"]
    assert completion.game_roles("") == ["policy", "ethical"]
