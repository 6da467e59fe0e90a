"""Workers, agents, NATS and Redis are killed under 2,000 commands: each command and each effect counts once."""

from pathlib import Path

import pytest

from careless import acknowledges_first, appends_without_looking
from ordeal import Ordeal
from tars.producers import async_client

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SEED = 20261126
COMMANDS, KILLS = 2000, 40


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends gives up soon: some answers never come."""
    monkeypatch.setattr(async_client, "ANSWER_SECONDS", 2.0)


async def test_forty_kills_lose_no_command_double_no_effect_and_leave_every_row_as_the_ledger_has_it(
    tmp_path: Path,
) -> None:
    found = await Ordeal(tmp_path, SEED, COMMANDS, KILLS).run()
    hit = found.blows
    assert hit["sync"] + hit["agents"] + hit["consumers"] == KILLS
    assert (hit["NATS"], hit["Valkey"], hit["FLUSHALL"], hit["frozen"]) == (4, 4, 4, 4)
    assert len(found.sent) >= COMMANDS
    assert (found.lost, found.doubled, found.wrong) == (0, 0, [])
    assert sum(found.account.configurations.values()) > COMMANDS / 20
    assert sum(found.account.letters.values()) > 0


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_acknowledges_before_it_acts_is_found_to_lose_commands(tmp_path: Path) -> None:
    careless = dict.fromkeys(("sync-1", "sync-2"), acknowledges_first)
    found = await Ordeal(tmp_path, SEED, 150, 20, careless, attempts=2, settling=5).run()
    assert found.account.unanswered


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_appends_without_looking_is_found_to_double_them(tmp_path: Path) -> None:
    careless = dict.fromkeys(("sync-1", "sync-2"), appends_without_looking)
    found = await Ordeal(tmp_path, SEED, 150, 20, careless, attempts=2, settling=5).run()
    assert found.account.doubled
