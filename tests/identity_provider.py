"""An OIDC identity provider on loopback whose id tokens are real ones, and tokens that it never gave."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import RSAKey

from tars.runtime.id_tokens import Rules, claims_of, login_of, rules_of
from tars.runtime.settings import Settings
from tars.runtime.signing import Gateway, Signer
from tars.runtime.stack import free_port
from tars.schemas.message import Login

BACK = "http://127.0.0.1/oauth2callback"
PAGE = "tars"
"""The page's name there."""
STRANGERS_KEY = RSAKey.generate_key(2048)


@dataclass(frozen=True)
class IdentityProvider:
    """Where people log in."""

    issuer: str

    @property
    def settings(self) -> Settings:
        """Settings of whoever believes its tokens."""
        return Settings(oidc_issuer=self.issuer, oidc_client_id=PAGE)

    @property
    def rules(self) -> Rules:
        """The same, read."""
        rules = rules_of(self.settings)
        assert rules is not None
        return rules

    def member(self, subject: str, *groups: str, **claims: Any) -> None:
        """Say who somebody is from now on."""
        body = {"email": f"{subject}@example.com", "groups": list(groups), **claims}
        httpx.put(f"{self.issuer}/users/{subject}", json=body).raise_for_status()

    def token(self, subject: str, *, audience: str = PAGE) -> str:
        """Log somebody in, as a browser and a page do, and return the id token."""
        asked = {"client_id": audience, "redirect_uri": BACK, "response_type": "code", "scope": "openid email"}
        there = httpx.post(f"{self.issuer}/oauth2/authorize", params=asked, data={"sub": subject})
        code = parse_qs(urlsplit(there.headers["location"]).query)["code"][0]
        bought = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
        answer = httpx.post(f"{self.issuer}/oauth2/token", data=bought, auth=(audience, "secret"))
        return str(answer.raise_for_status().json()["id_token"])

    def login(self, token: str) -> Login:
        """Read a token as an honest page does."""
        login = login_of(token, claims_of(token), self.rules)
        assert isinstance(login, Login), login
        return login

    def gateway(self, signer: Signer, token: str) -> Gateway:
        """A page's key that speaks for whoever this token is about."""
        return Gateway(signer, self.login(token), token)

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(self.rules.discovery).is_success
        except httpx.TransportError:
            return False

    def key_id(self) -> str:
        """The name of the key that it signs with."""
        return str(httpx.get(f"{self.issuer}/jwks").json()["keys"][0]["kid"])


def until(condition: Callable[[], bool]) -> None:
    """Look again until it is true."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def forged(token: str, **header: str) -> str:
    """What a token says, signed by a stranger."""
    return jwt.encode({"alg": "RS256", **header}, dict(claims_of(token)), STRANGERS_KEY)


def altered(token: str, other: str) -> str:
    """The claims of one token under the signature of another."""
    header, _, signature = token.split(".")
    return f"{header}.{other.split('.')[1]}.{signature}"


@contextmanager
def identity_provider(*, seconds: int = 3600, port: int = 0) -> Iterator[IdentityProvider]:
    """Run one whose logins last so long, in a process of its own: its libraries warn of each other."""
    port = port or free_port(0)
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "-p", str(port), "-e", str(seconds)]
    found = IdentityProvider(f"http://127.0.0.1:{port}")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(found.is_up)
            yield found
        finally:
            process.terminate()


def wait_until_over(token: str) -> None:
    """Wait until a token's time is over."""
    until(lambda: time.time() > claims_of(token)["exp"])
