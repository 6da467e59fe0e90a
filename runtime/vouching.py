"""Who sent a command, proven where a trust file says whom to believe, and what bars them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tars.runtime.id_tokens import IdTokens
from tars.runtime.signing import (
    HOW,
    KEY_HEADER,
    LOGIN_HEADER,
    SIGNATURE_HEADER,
    TOKEN_HEADER,
    BadTrust,
    TrustFile,
    verify,
)
from tars.schemas.message import Command, Envelope, Login, Signed
from tars.schemas.trust import Sender, Trust, lacking_right, sender_of


@dataclass(frozen=True)
class Vouching:
    """What a worker believes: its trust file, and the id tokens of its identity provider."""

    file: TrustFile
    id_tokens: IdTokens | None = None
    """None: OIDC_ISSUER is not set, so nobody is believed to have logged in."""

    async def of(self, envelope: Envelope, command: Command, headers: Mapping[str, Any], body: bytes) -> Envelope:
        """The envelope of a command with who sent it proven, or why that bars it; as it was where nobody is trusted."""
        try:
            trust = self.file.current()
        except BadTrust as error:
            return envelope.model_copy(update={"barred": str(error)})
        if trust is None and self.id_tokens is None:
            return envelope
        if trust is None:
            return envelope.model_copy(
                update={"barred": f"people log in, and {self.file.path} is not there: put it there"}
            )
        signed = _signed(envelope, headers, body)
        by = signed if isinstance(signed, str) else await self._sender(signed, headers, trust, envelope)
        if isinstance(signed, str) or isinstance(by, str):
            return envelope.model_copy(update={"barred": by})
        barred = lacking_right(command, by)
        if command.deadline is None:
            barred = "it was signed without a deadline: whoever has a copy could send it at any time"
        return envelope.model_copy(update={"by": by.by, "signed": signed, "barred": barred})

    async def _sender(
        self, signed: Signed, headers: Mapping[str, Any], trust: Trust, envelope: Envelope
    ) -> Sender | str:
        """Say who sent it, or why that is nobody who counts; of a gateway's word, whether the id token bears it out."""
        key = verify(signed, trust)
        by = key if isinstance(key, str) else sender_of(signed, key)
        if isinstance(by, str) or by.login is None:
            return by
        token = str(headers.get(TOKEN_HEADER, ""))
        if not token:
            return "its gateway says who logged in, and sent no id token that proves it"
        if self.id_tokens is None:
            return "nobody is believed to have logged in: set OIDC_ISSUER here, as the page has it"
        login = await self.id_tokens.login(token, envelope.time)
        return login if isinstance(login, str) else _borne_out(by, by.login, login)


def _signed(envelope: Envelope, headers: Mapping[str, Any], body: bytes) -> Signed | str:
    key, signature = (str(headers.get(name, "")) for name in (KEY_HEADER, SIGNATURE_HEADER))
    if not key or not signature:
        return f"it is not signed: {HOW}"
    said = headers.get(LOGIN_HEADER)
    return Signed(
        key=key,
        id=envelope.id,
        subject=envelope.subject,
        body=body.decode(),
        signature=signature,
        on_behalf=str(said) if said is not None else None,
    )


def _borne_out(by: Sender, said: Login, proven: Login) -> Sender | str:
    """Say who sent it when token and gateway agree."""
    if said.token != proven.token or said.principal != proven.principal:
        return f"its gateway speaks for {said.principal}, and its id token is another's"
    if said != proven:
        roles = " and ".join(f"{', '.join(one.roles)}" for one in (said, proven))
        return f"its gateway and this worker read its id token differently ({roles}): give both the same OIDC_ settings"
    return replace(by, login=proven)
