"""A Chromium, and a page with everything behind it: real servers, workers, and agents that report."""

import os
from collections.abc import Iterator

import pytest
from selenium.webdriver.remote.webdriver import WebDriver
from stage import Stage

import chromium
from browsing import House, Window, furnished

REQUIRED = "TARS_BROWSER"
"""Set to `require`, no Chromium is a failure."""


@pytest.fixture(scope="session")
def browser() -> chromium.Chromium:
    """Looked for before any server starts."""
    found = chromium.find()
    if found is None and os.environ.get(REQUIRED) == "require":
        pytest.fail(chromium.HOW_TO_GET, pytrace=False)
    if found is None:
        pytest.skip(chromium.HOW_TO_GET)
    return found


@pytest.fixture
def driver(browser: chromium.Chromium) -> Iterator[WebDriver]:
    """A browser of this test's own."""
    with chromium.opened(browser) as found:
        yield found


@pytest.fixture(scope="module")
def house(browser: chromium.Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all tests of a module, and none without a browser."""
    assert browser
    with furnished(tmp_path_factory.mktemp("house")) as found:
        yield found


@pytest.fixture
def stage(house: House) -> Stage:
    """What stands behind the page."""
    return house.stage


@pytest.fixture
def window(house: House, driver: WebDriver) -> Window:
    """A browser in front of the page."""
    return Window(driver, house.page.address)
