"""The page where people log in: real id tokens, a real sync worker that proves them, and what each role may."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from stage import Stage, forget_process, show, start_agent, texts, until, workers
from streamlit.runtime.context import ContextProxy
from streamlit.testing.v1 import AppTest

from identity_provider import IdentityProvider, identity_provider
from people import ADA, PAGE, trusted
from tars.dashboard import session
from tars.dashboard.door import way_back
from tars.dashboard.identity import visitor
from tars.producers.client import connect
from tars.runtime.servers import start_nats, start_valkey
from tars.runtime.settings import Settings

START = Path(__file__).parents[2] / "dashboard" / "entry" / "start.py"


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    with identity_provider() as found:
        found.member("bo", "tars-approvers")
        found.member("ann", "tars-proposers")
        found.member("vic", "tars-viewers")
        found.member("nobody", "staff")
        yield found


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, idp: IdentityProvider) -> Iterator[Stage]:
    """Servers, workers, an agent, and the environment of a page at which people log in; ADA proposes by a script."""
    folder = tmp_path_factory.mktemp("stage")
    trusted(folder / "data", ADA, PAGE)
    found = Stage(folder, start_nats(folder / "nats"), start_valkey(folder / "valkey"))
    settings = Settings(
        nats_url=found.nats.url, redis_url=found.valkey.url, ack_wait_seconds=2, rate_limit_per_minute=0,
        oidc_issuer=idp.issuer, oidc_client_id="tars", tars_data=folder / "data",
    )  # fmt: skip
    try:
        with pytest.MonkeyPatch.context() as environment:
            for name in ("nats_url", "redis_url", "oidc_issuer", "oidc_client_id", "tars_data"):
                environment.setenv(name.upper(), str(getattr(settings, name)))
            with workers(settings), connect(found.nats.url, user="ada") as ada:
                found.client = ada
                start_agent(found)
                yield found
                forget_process()
    finally:
        found.valkey.stop()
        found.nats.stop()


def user(token: str) -> dict[str, object]:
    """What Streamlit keeps of somebody who logged in."""
    return {"is_logged_in": True, "tokens": {"id": token}}


def opened(name: str, token: str = "", **query: str) -> AppTest:
    """Open a page as somebody who logged in with this token, or as nobody."""
    page = AppTest.from_function(_page, default_timeout=20, args=(name,))
    page.user = user(token) if token else {"is_logged_in": False}
    for key, value in query.items():
        page.query_params[key] = value
    return page.run()


def _page(name: str) -> None:
    from tars.dashboard.app import PAGES, live  # noqa: PLC0415 - AppTest runs this text as a script

    live(next(page for page in PAGES if page.name == name))


def keys(page: AppTest) -> list[str | None]:
    return [button.key for button in page.button]


def test_who_has_not_logged_in_sees_a_button_and_nothing_else(stage: Stage) -> None:
    stage.propose("u-secret", {"learning_rate": 0.001})
    page = opened("approvals")
    assert keys(page) == ["log_in"]
    assert "u-secret" not in texts(page)
    stage.client.reject("u-secret")


def test_who_is_in_no_group_sees_why_and_nothing_else(stage: Stage, idp: IdentityProvider) -> None:
    page = opened("agents", idp.token("nobody"))
    assert "nobody@example.com is in none of the groups" in texts(page)
    assert keys(page) == ["log_in", "log_out"]


def test_a_login_that_has_ended_shows_nothing_any_more(idp: IdentityProvider) -> None:
    token = idp.token("bo")
    ends = idp.login(token).expires_at
    assert visitor(user(token), idp.rules, ends - timedelta(seconds=1)).roles
    assert not visitor(user(token), idp.rules, ends).roles
    assert "ended at" in visitor(user(token), idp.rules, ends).why_not


def test_an_approver_approves_under_their_own_name(stage: Stage, idp: IdentityProvider) -> None:
    stage.propose("u-yes", {"learning_rate": 0.001})
    page = opened("approvals", idp.token("bo"))
    assert [text.value for text in page.text] == ["bo@example.com · approver, viewer"]
    page.button(key="approve-u-yes").click().run()
    assert "u-yes is approved." in texts(page)
    until(lambda: len(stage.said("u-yes")) > 2)
    kind, by, _ = stage.said("u-yes")[1]
    assert (kind, by) == ("update.approved.v1", f"bo@example.com ({idp.issuer}#bo)")


def test_a_viewer_sees_all_and_may_nothing(stage: Stage, idp: IdentityProvider) -> None:
    stage.propose("u-look", {"learning_rate": 0.001})
    page = opened("approvals", idp.token("vic"))
    assert "u-look" in texts(page)
    assert page.button(key="approve-u-look").disabled
    assert page.button(key="reject-u-look").disabled
    stage.client.reject("u-look")


def test_a_proposer_may_reject_and_not_approve(stage: Stage, idp: IdentityProvider) -> None:
    stage.propose("u-no", {"learning_rate": 0.001})
    page = opened("approvals", idp.token("ann"))
    assert page.button(key="approve-u-no").disabled
    page.button(key="reject-u-no").click().run()
    assert "u-no is rejected." in texts(page)


def test_a_role_that_went_after_the_page_was_drawn_sends_nothing(stage: Stage, idp: IdentityProvider) -> None:
    stage.propose("u-late", {"learning_rate": 0.001})
    page = opened("approvals", idp.token("bo"))
    idp.member("bo", "tars-viewers")
    try:
        page.user = user(idp.token("bo"))
        before = stage.count("COMMANDS")
        page.button(key="approve-u-late").click().run()
        assert "approve was refused: bo@example.com may not: that needs the role approver" in texts(page)
        assert stage.count("COMMANDS") == before
    finally:
        idp.member("bo", "tars-approvers")
        stage.client.reject("u-late")


def test_a_page_that_counts_groups_otherwise_than_the_worker_is_refused_there(
    stage: Stage, idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.propose("u-group", {"learning_rate": 0.001})
    monkeypatch.setenv("OIDC_APPROVERS", "tars-viewers")
    session.settings.clear()
    try:
        page = opened("approvals", idp.token("vic"))
        page.button(key="approve-u-group").click().run()
        assert "read its id token differently (approver, viewer and viewer)" in texts(page)
    finally:
        session.settings.clear()
        stage.client.reject("u-group")


def test_what_is_not_answered_is_said_to_be_unknown_or_not_sent_and_never_done(
    stage: Stage, idp: IdentityProvider
) -> None:
    stage.propose("u-away", {"learning_rate": 0.001})
    page = opened("approvals", idp.token("bo"))
    stage.nats.kill()
    try:
        page.button(key="approve-u-away").click().run()
        until(lambda: "u-away: approve was NOT sent" in texts(page.run()))
    finally:
        stage.restart_nats()


def test_the_address_that_somebody_came_by_is_opened_after_the_login(
    stage: Stage, idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = AppTest.from_file(str(START), default_timeout=20)
    page.user = user(idp.token("vic"))
    monkeypatch.setattr(ContextProxy, "cookies", {"tars_return": "%2Fchanges%3Fid%3Du-yes"})  # AppTest has none
    page.run()
    assert not page.exception
    assert page.title[0].value == "Changes"
    assert page.query_params["id"] in ("u-yes", ["u-yes"])


@pytest.mark.parametrize(
    "address", [None, "", "/", "//evil.example.org", "https://evil.example.org/x", "/elsewhere?id=1"]
)
def test_an_address_that_is_no_page_of_ours_leads_nowhere(address: str | None) -> None:
    assert way_back(address, ["agents"]) is None


def test_a_page_at_which_nobody_logs_in_says_so() -> None:
    forget_process()
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("OIDC_ISSUER", raising=False)
        environment.setenv("TARS_USER", "grace")
        environment.setenv("NATS_URL", "nats://127.0.0.1:9")
        assert "Nobody logs in here: whoever opens this page acts as **grace**." in texts(show("agents"))
        forget_process()
