"""People who log in, in a real browser: what a viewer may not, and in whose name an approver decides."""

from collections.abc import Iterator

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from stage import Stage, start_agent, until, workers

from browsing import Window, page_server
from chromium import Chromium
from examples import AGENT
from identity_provider import PAGE as CLIENT
from identity_provider import IdentityProvider, identity_provider
from people import ADA, PAGE, trusted
from tars.producers.client import connect
from tars.runtime.servers import start_nats, start_valkey
from tars.runtime.settings import Settings
from tars.runtime.stack import free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow]
Place = tuple[Stage, IdentityProvider, str]
"""What stands behind the page, where people log in, and the page's address."""


@pytest.fixture(scope="module")
def place(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Servers, workers, an agent, an identity provider and the page's process; ADA proposes by a script."""
    folder = tmp_path_factory.mktemp("place")
    data, secret = folder / "data", folder / "secret"
    trusted(data, ADA, PAGE)
    secret.write_text("hush")
    stage = Stage(folder, start_nats(folder / "nats"), start_valkey(folder / "valkey"))
    try:
        with identity_provider() as idp, pytest.MonkeyPatch.context() as environment:
            environment.setenv("TARS_DATA", str(data))
            idp.member("vic", "tars-viewers")
            idp.member("bo", "tars-approvers")
            known = {"NATS_URL": stage.nats.url, "REDIS_URL": stage.valkey.url, "TARS_DATA": str(data)}
            known |= {"OIDC_ISSUER": idp.issuer, "OIDC_CLIENT_ID": CLIENT, "RATE_LIMIT_PER_MINUTE": "0"}
            settings = Settings.model_validate({name.lower(): value for name, value in known.items()})
            with (
                workers(settings),
                connect(stage.nats.url, user="ada") as stage.client,
                page_server(free_port(0), known | {"OIDC_CLIENT_SECRET_FILE": str(secret)}, folder) as page,
            ):
                start_agent(stage)
                yield stage, idp, page.address
    finally:
        stage.nats.stop()
        stage.valkey.stop()


def log_in(window: Window, person: str, shows: str) -> None:
    """Come by a deep link, and be led back to it."""
    window.open("/approvals", "Log in to see the agents").press("log_in").sees("Authorize")
    window.driver.find_element(By.NAME, "sub").send_keys(person)
    window.driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    window.sees(shows)


def test_a_viewer_sees_the_queue_and_may_not_decide(place: Place, driver: WebDriver) -> None:
    stage, _, address = place
    stage.client.propose({"gamma": 0.97}, agents=[AGENT], update_id="u-seen")
    window = Window(driver, address)
    log_in(window, "vic", "u-seen")
    window.sees("viewer").draws(".st-key-approve-u-seen button")
    assert not window.can_press("approve-u-seen")
    assert not window.can_press("reject-u-seen")
    assert [row.update_id for row in stage.client.pending()] == ["u-seen"]
    stage.client.reject("u-seen")


def test_an_approver_decides_in_their_own_name(place: Place, driver: WebDriver) -> None:
    stage, idp, address = place
    stage.client.propose({"gamma": 0.97}, agents=[AGENT], update_id="u-asked")
    window = Window(driver, address)
    log_in(window, "bo", "u-asked")
    window.press("reject-u-asked").sees("u-asked is rejected.")
    until(lambda: len(stage.said("u-asked")) > 1)
    kind, who, _ = stage.said("u-asked")[-1]
    assert (kind, who) == ("update.rejected.v1", f"bo@example.com ({idp.issuer}#bo)")
