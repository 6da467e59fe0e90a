"""What an id token proves, and to whom: real ones of a real identity provider, and those that it never gave."""

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey

from identity_provider import IdentityProvider, altered, forged, identity_provider
from tars.runtime import id_tokens
from tars.runtime.id_tokens import IdTokens, Rules, claims_of, login_of, rules_of
from tars.runtime.settings import BadSetting, Settings, load_settings
from tars.runtime.stack import free_port
from tars.schemas.message import Login


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    with identity_provider() as found:
        found.member("grace", "staff", "tars-approvers")
        found.member("nobody", "staff")
        yield found


def checked(rules: Rules, *tokens: str, at: datetime | None = None) -> list[Login | str]:
    """What one worker says to these tokens, one after the other."""

    async def ask() -> list[Login | str]:
        found = IdTokens(rules)
        return [await found.login(token, at or datetime.now(UTC)) for token in tokens]

    return asyncio.run(ask())


def test_a_token_tells_who_logged_in_and_what_their_groups_allow(idp: IdentityProvider) -> None:
    token = idp.token("grace")
    (login,) = checked(idp.rules, token)
    assert isinstance(login, Login)
    assert (login.principal, login.name) == (f"{idp.issuer}#grace", "grace@example.com")
    assert (login.groups, login.roles) == (("tars-approvers",), ("approver", "viewer"))
    assert token not in login.model_dump_json()


def test_a_forged_and_an_altered_token_prove_nobody(idp: IdentityProvider) -> None:
    nobody, grace = idp.token("nobody"), idp.token("grace")
    posing = forged(grace, kid=idp.key_id())
    for token in (posing, forged(grace), altered(nobody, grace), "x", "x.y.z", ""):
        (why,) = checked(idp.rules, token)
        assert isinstance(why, str)
        assert "forged, or was altered" in why or "no JSON web token" in why


def test_a_token_that_its_reader_could_have_signed_proves_nobody(idp: IdentityProvider) -> None:
    claims = dict(claims_of(idp.token("grace")))
    shared = jwt.encode(
        {"alg": "HS256", "kid": idp.key_id()}, claims, OctKey.import_key("secret of thirty-two letters .....")
    )
    bare = ".".join((shared.split(".")[0], shared.split(".")[1], ""))
    for why in checked(idp.rules, shared, bare):
        assert isinstance(why, str)
        assert "not signed by" in why


ODD: tuple[object, ...] = (
    {"alg": "RS256", "kid": []}, {"alg": "RS256", "kid": {}}, {"alg": "RS256", "kid": 7}, {"alg": 7}, {"alg": None}, {},
    [], None, 7, "x", {"alg": "RS256", "crit": ["x"]}, {"alg": "RS256", "b64": False, "crit": ["b64"]}, {"alg": "none"},
)  # fmt: skip
"""Headers that nobody honest writes."""


def test_whatever_a_token_holds_is_answered_with_a_reason(idp: IdentityProvider) -> None:
    _, claims, signature = idp.token("grace").split(".")
    texts = [json.dumps(header) for header in ODD] + ["{", "[" * 100_000, "\ud800"]
    heads = [base64.urlsafe_b64encode(text.encode(errors="surrogatepass")).decode() for text in texts]
    tokens = [f"{head}.{claims}.{signature}" for head in heads] + [".", "..", "a.b.c.d.e", "\ud800", "é.é.é"]
    assert [found for found in checked(idp.rules, *tokens) if not isinstance(found, str)] == []


def test_a_token_of_another_issuer_or_for_another_page_is_refused(idp: IdentityProvider) -> None:
    with identity_provider() as other:
        other.member("grace", "tars-approvers")
        (strange,) = checked(idp.rules, other.token("grace"))
    assert "not signed by" in str(strange)
    (elsewhere,) = checked(idp.rules, idp.token("grace", audience="wiki"))
    assert elsewhere == "its id token is for ['wiki'], not for tars alone"


def test_a_token_counts_until_it_ends_by_the_clock_of_whoever_stored_the_command(idp: IdentityProvider) -> None:
    token = idp.token("grace")
    ends = idp.login(token).expires_at
    (before,) = checked(idp.rules, token, at=ends - timedelta(seconds=1))
    (after,) = checked(idp.rules, token, at=ends)
    assert isinstance(before, Login)
    assert "the login of grace@example.com ended at" in str(after)
    (early,) = checked(idp.rules, token, at=datetime.now(UTC) - timedelta(hours=1))
    assert "still to come" in str(early)


def test_who_is_in_no_group_that_counts_is_refused_also_when_they_were_in_one(idp: IdentityProvider) -> None:
    (nobody,) = checked(idp.rules, idp.token("nobody"))
    assert "nobody@example.com is in none of the groups tars-approvers, tars-proposers, tars-viewers" in str(nobody)
    idp.member("late", "tars-approvers")
    (member,) = checked(idp.rules, idp.token("late"))
    idp.member("late")
    (left,) = checked(idp.rules, idp.token("late"))
    assert isinstance(member, Login)
    assert "in none of the groups" in str(left)


def test_an_identity_provider_that_is_away_is_said_to_be_and_asked_again(
    idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_tokens, "AGAIN_SECONDS", 0.0)
    port = free_port(0)
    rules = replace(idp.rules, issuer=f"http://127.0.0.1:{port}")

    async def ask() -> tuple[Login | str, Login | str]:
        found, early = IdTokens(rules), idp.token("grace")
        away = await found.login(early, datetime.now(UTC))
        with identity_provider(port=port) as later:
            later.member("grace", "tars-approvers")
            return away, await found.login(later.token("grace"), datetime.now(UTC))

    away, there = asyncio.run(ask())
    assert f"{rules.issuer} gives no keys just now; try again" in str(away)
    assert isinstance(there, Login)


def test_the_keys_are_fetched_once_and_again_for_a_new_key_but_not_for_each_made_up_one(
    idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Rules] = []
    fetch = id_tokens.fetch_keys

    def counted(rules: Rules) -> KeySet:
        fetched.append(rules)
        return fetch(rules)

    monkeypatch.setattr(id_tokens, "fetch_keys", counted)
    token = idp.token("grace")
    checked(idp.rules, token, token, *(forged(token, kid=f"made-up-{number}") for number in range(5)))
    assert len(fetched) == 1
    monkeypatch.setattr(id_tokens, "AGAIN_SECONDS", 0.0)
    checked(idp.rules, token, token, forged(token, kid="new"))
    assert len(fetched) == 1 + 2


def test_a_discovery_document_that_speaks_for_another_issuer_gives_no_keys(idp: IdentityProvider) -> None:
    alias = idp.issuer.replace("127.0.0.1", "localhost")
    rules = rules_of(Settings(oidc_issuer=f"{alias}/", oidc_client_id="tars"))
    assert rules is not None
    (why,) = checked(rules, idp.token("grace"))
    assert "gives no keys" in str(why)


CLAIMS = {"iss": "https://idp.example.org", "aud": "tars", "sub": "7", "iat": 1, "exp": 2}
RULES = Rules("https://idp.example.org", "tars", "groups", {"a": frozenset({"approver", "viewer"})})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"aud": ["tars", "wiki"]}, "not for tars alone"),
        ({"azp": "wiki"}, "not for tars alone"),
        ({"aud": None}, "not for tars alone"),
        ({"sub": ""}, "lacks sub"),
        ({"sub": 7}, "lacks sub"),
        ({"exp": "soon"}, "lacks sub, iat or exp"),
        ({"exp": 1e300}, "lacks sub, iat or exp"),
        ({"iat": None}, "lacks sub, iat or exp"),
        ({"sub": "x" * 200}, "longer than 200 letters"),
    ],
)
def test_claims_that_say_too_little_are_named(change: dict[str, object], why: str) -> None:
    assert why in str(login_of("t", {**CLAIMS, **change}, RULES))


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("groups", {"groups": ["a", "b", 7]}),
        ("groups", {"groups": "a"}),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}),
        ("https://tars.example.org/groups", {"https://tars.example.org/groups": ["a"]}),
    ],
)
def test_groups_are_found_where_identity_providers_put_them(name: str, claims: dict[str, object]) -> None:
    login = login_of("t", CLAIMS | claims, Rules(RULES.issuer, "tars", name, RULES.groups))
    assert isinstance(login, Login)
    assert login.groups == ("a",)


def test_a_name_that_somebody_chose_draws_nothing_on_a_page() -> None:
    login = login_of("t", {**CLAIMS, "email": "![x](https://evil.example.org/p.png)<b>Zoë O'Hara\n"}, RULES)
    assert isinstance(login, Login)
    assert login.name == "xhttpsevil.example.orgp.pngbZoë O'Hara"


@pytest.mark.parametrize("issuer", ["http://idp.example.org", "ftp://127.0.0.1", "https://idp.example.org/?x=1", "idp"])
def test_an_issuer_whose_keys_anybody_on_the_way_could_change_is_refused(
    issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OIDC_ISSUER", issuer)
    monkeypatch.setenv("OIDC_CLIENT_ID", "tars")
    with pytest.raises(BadSetting, match="OIDC_ISSUER"):
        load_settings()


def test_an_issuer_without_the_page_s_name_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OIDC_ISSUER", "https://idp.example.org")
    with pytest.raises(BadSetting, match="OIDC_CLIENT_ID=None is not allowed.*OIDC_ISSUER needs it"):
        load_settings()
