"""Who an id token is about: what its claims must say, and the keys of the identity provider that prove them."""

import asyncio
import base64
import hashlib
import json
import logging
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic import ValidationError

from tars.runtime.settings import Settings
from tars.schemas.message import Login, Role

log = logging.getLogger(__name__)

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signatures by public keys alone: with the others whoever checks could sign."""
UNREADABLE: Final = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What reading somebody's token may raise: joserfc looks at signatures, and at little of what a header may hold."""
FETCH_SECONDS: Final = 5.0
FETCH_BYTES: Final = 1 << 20
FRESH_SECONDS: Final = 3600.0
"""Keys are fetched again when they are older than this."""
STALE_SECONDS: Final = 86_400.0
"""Where that fails, they count this long."""
AGAIN_SECONDS: Final = 10.0
"""Between two attempts: whoever makes up key ids, or an identity provider that hangs, must not hold up the others."""
AHEAD: Final = timedelta(seconds=60)
"""How far the identity provider's clock may be before NATS'."""
LONGEST: Final = 200
"""Letters of a principal."""


@dataclass(frozen=True)
class Rules:
    """Whose id tokens count, for whom, and which groups give which role."""

    issuer: str
    audience: str
    groups_claim: str
    groups: Mapping[str, frozenset[Role]]
    """Group -> the roles it gives."""

    @property
    def discovery(self) -> str:
        """Where the identity provider says where everything is."""
        return f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"


def rules_of(settings: Settings) -> Rules | None:
    """What the settings say; None: nobody logs in."""
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    named: tuple[tuple[Role, str], ...] = (
        ("viewer", settings.oidc_viewers),
        ("proposer", settings.oidc_proposers),
        ("approver", settings.oidc_approvers),
    )
    groups: dict[str, frozenset[Role]] = {}
    for role, listed in named:
        for group in filter(None, map(str.strip, listed.split(","))):
            groups[group] = groups.get(group, frozenset()) | {"viewer", role}
    return Rules(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_groups_claim, groups)


def login_of(token: str, claims: Mapping[str, Any], rules: Rules) -> Login | str:
    """Say who logged in, or why these claims are nobody's who counts; neither signature nor time is looked at."""
    if claims.get("iss") != rules.issuer:
        return f"its id token is by {claims.get('iss')}, not by {rules.issuer}"
    audience = claims.get("aud")
    listed = audience if isinstance(audience, list) else [audience]
    if (
        rules.audience not in listed
        or claims.get("azp", rules.audience if len(listed) == 1 else None) != rules.audience
    ):
        return f"its id token is for {audience}, not for {rules.audience} alone"
    groups = sorted(_listed(claims, rules.groups_claim) & rules.groups.keys())
    try:
        login = Login(
            issuer=rules.issuer,
            subject=claims.get("sub", ""),
            name=_name(claims),
            groups=tuple(groups),
            roles=tuple(sorted({role for group in groups for role in rules.groups[group]})),
            issued_at=datetime.fromtimestamp(claims["iat"], UTC),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
            token=hashlib.sha256(token.encode()).hexdigest(),
        )
    except (ValidationError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return "its id token lacks sub, iat or exp"
    if len(login.principal) > LONGEST:
        return f"its id token's iss and sub together are longer than {LONGEST} letters"
    return login


def barred(login: Login, at: datetime, rules: Rules) -> str | None:
    """Why this login counts for nothing at this moment; None: it counts."""
    if at >= login.expires_at:
        return (
            f"the login of {login.name or login.principal} ended at {login.expires_at:%Y-%m-%d %H:%M} UTC: log in again"
        )
    if login.issued_at > at + AHEAD:
        return (
            f"its id token is from {login.issued_at:%Y-%m-%d %H:%M:%S} UTC, which is still to come: look at the clocks"
        )
    if not login.roles:
        return f"{login.name or login.principal} is in none of the groups {', '.join(sorted(rules.groups))}"
    return None


def claims_of(token: str) -> Mapping[str, Any]:
    """Read what an id token says, proven or not; raises ValueError."""
    claims = json.loads(_decoded(token.split(".")[1])) if token.count(".") == 2 else None  # noqa: PLR2004 - header, claims, signature
    if not isinstance(claims, dict):
        raise ValueError("it is no JSON web token")  # noqa: TRY004 - its content, not ours
    return claims


class IdTokens:
    """Checks id tokens of one identity provider; its keys are fetched when first needed, and again for a new key id."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._keys = KeySet([])
        self._fetched = self._tried = float("-inf")
        self._lock = asyncio.Lock()

    async def login(self, token: str, at: datetime) -> Login | str:
        """Say who logged in, as of `at`, or why this token proves nobody."""
        try:
            key_id = jws.extract_compact(token.encode()).headers().get("kid")
        except UNREADABLE:
            return "its id token is no JSON web token"
        if not isinstance(key_id, str | None):
            return "its id token names its key by no text"
        if away := await self._renew(key_id):
            return away
        try:
            claims = jwt.decode(token, self._keys, algorithms=ALGORITHMS).claims
        except UNREADABLE as error:
            return f"its id token is not signed by {self._rules.issuer}: it is forged, or was altered ({_told(error)})"
        login = login_of(token, claims, self._rules)
        return login if isinstance(login, str) else barred(login, at, self._rules) or login

    async def _renew(self, key_id: str | None) -> str | None:
        """Fetch the keys where these are old or lack this one; None: there are some, else why not."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            known = now - self._fetched < FRESH_SECONDS and (
                key_id is None or key_id in {k.kid for k in self._keys.keys}
            )
            if not known and now - self._tried >= AGAIN_SECONDS:
                self._tried = now
                try:
                    self._keys = await asyncio.to_thread(fetch_keys, self._rules)
                    self._fetched = now
                except (OSError, ValueError, HTTPException, JoseError) as error:
                    log.warning(
                        "no keys of the identity provider", extra={"issuer": self._rules.issuer, "error": _told(error)}
                    )
            if now - self._fetched < STALE_SECONDS:
                return None
            away = f"{self._rules.issuer} gives no keys just now"
            return f"its id token cannot be checked: {away}; try again, and see this worker's log"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys come from where the identity provider says, and from nowhere that an answer on the way names."""

    def redirect_request(self, *_: object) -> None:
        """Follow nothing; urllib makes an HTTPError of it."""


def fetch_keys(rules: Rules) -> KeySet:
    """Ask the identity provider what it signs with; raises OSError, ValueError, HTTPException or JoseError."""
    found = _fetch(rules.discovery)
    if found.get("issuer") != rules.issuer:
        raise ValueError(f"{rules.discovery} speaks for {found.get('issuer')}")
    where = str(found.get("jwks_uri"))
    if not where.startswith("https://" if rules.issuer.startswith("https://") else ("http://", "https://")):
        raise ValueError(f"its jwks_uri is {where}")
    listed = _fetch(where).get("keys")
    if not isinstance(listed, list):
        raise ValueError(f"{where} lists no keys")  # noqa: TRY004 - its content, not ours
    return KeySet([key for one in listed for key in _usable(one)])


def _usable(one: Any) -> list[Any]:  # noqa: ANN401 - JSON
    """A key that signs, or nothing: an identity provider may list others too."""
    if not isinstance(one, dict) or one.get("kty") == "oct" or one.get("use", "sig") != "sig":
        return []
    try:
        return KeySet.import_key_set({"keys": [one]}).keys
    except (JoseError, ValueError, KeyError):
        return []


def _fetch(url: str) -> Mapping[str, Any]:
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - from Settings: http(s)
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=FETCH_SECONDS) as answer:
        found = json.loads(answer.read(FETCH_BYTES))
    if not isinstance(found, dict):
        raise ValueError(f"{url} is no JSON object")  # noqa: TRY004 - its content, not ours
    return found


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _listed(claims: Mapping[str, Any], name: str) -> set[str]:
    """The groups of a claim, whose name may be a path; one alone may stand without a list."""
    found: Any = claims
    for part in (name,) if name in claims else name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    several = found if isinstance(found, list) else [found]
    return {group for group in several if isinstance(group, str)}


def _name(claims: Mapping[str, Any]) -> str:
    """What people call them, in letters that mean nothing to a page that draws it: some may choose their own."""
    found = (claims.get(name) for name in ("email", "preferred_username", "name"))
    text = next((value for value in found if isinstance(value, str) and value), "")
    return "".join(letter for letter in text if letter.isalnum() or letter in " @._+-'")[:100]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
