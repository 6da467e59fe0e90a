"""A page that stays open while what it stands on goes away and comes back: nobody reloads it."""

import re

import pytest
from stage import until

from browsing import FLEET, House, Window

pytestmark = [pytest.mark.browser, pytest.mark.slow]
BOTH_AWAY = "Neither Redis nor the consumers answer: what you see is"


def age(window: Window) -> float:
    """Seconds that the banner says."""
    found = re.search(rf"{BOTH_AWAY} (\d+) (s|min) old", window.text())
    return float(found[1]) * (60 if found[2] == "min" else 1) if found else 0.0


def test_redis_is_killed_while_somebody_looks(house: House, window: Window) -> None:
    window.open("/agents", "from redis")
    house.stage.valkey.kill()
    window.sees("Redis is away: rows come from the consumers' queries.", "from queries", FLEET[0])
    house.stage.restart_valkey()
    window.sees("from redis").misses("Redis is away")


def test_with_nats_away_too_the_last_rows_stay_with_their_age(house: House, window: Window) -> None:
    window.open("/agents", "from redis")
    house.stage.valkey.kill()
    house.stage.nats.kill()
    window.sees(BOTH_AWAY, FLEET[0])
    until(lambda: age(window) > 2)
    house.stage.restart_nats()
    house.stage.restart_valkey()
    window.sees("from redis").misses(BOTH_AWAY)


def test_the_page_is_killed_and_the_broker_restarted_under_an_open_window(house: House, window: Window) -> None:
    house.stage.client.propose({"gamma": 0.97}, agents=FLEET[:1], update_id="u-after")
    window.open("/approvals", "u-after").draws(".st-key-reason-u-after input", "[data-testid=stDataFrame] canvas")
    house.page.kill()
    house.stage.nats.kill()
    house.stage.restart_nats()
    house.page.start()
    until(lambda: house.stage.said("u-after"))
    window.refreshes().press("reject-u-after").sees("u-after is rejected.")
