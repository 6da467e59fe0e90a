"""TARS as its next release might be, for tests of old and new side by side: `python -m next_release run ROLE`.

Approving has a second version, in which the reason is called `because`: of the command and of the event. A proposal
has gained the optional field `ticket`, and keeps its version.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field

from tars.schemas import update
from tars.schemas.message import Message, Reason

Because = Annotated[Reason, Field(alias="because")]


class ApproveUpdate(update.ApproveUpdate):
    """Let a pending update through."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)
    kind: Literal["update.approve.v2"] = "update.approve.v2"  # type: ignore[assignment] # a version of its own
    reason: Because = ""


class UpdateApproved(update.UpdateApproved):
    """Somebody, or the mode, let it through."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)
    kind: Literal["update.approved.v2"] = "update.approved.v2"  # type: ignore[assignment] # a version of its own
    reason: Because


class UpdateProposed(update.UpdateProposed):
    """A valid update waits for approval."""

    ticket: str = "none"


class ApproveUpdate1(update.ApproveUpdate):
    """As it was sent before."""

    def upcast(self) -> Message:
        """Say the same as the second version does."""
        return ApproveUpdate(**_fields(self))


class UpdateApproved1(update.UpdateApproved):
    """As it was written before."""

    def upcast(self) -> Message:
        """Say the same as the second version does."""
        return UpdateApproved(**_fields(self))


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in type(message).model_fields if name != "kind"}


def _with(new: tuple[type[Message], ...], union: Any) -> Any:
    """The union with the new classes in the place of those they come from."""
    old = get_args(get_args(union)[0])
    found: Any = None
    for member in (next((n for n in new if issubclass(n, o)), o) for o in old):
        found = member if found is None else found | member
    return Annotated[found, Field(discriminator="kind")]


def install() -> None:
    """Let this process be of the next release; before anything else of TARS is imported."""
    new = (ApproveUpdate, UpdateApproved, UpdateProposed)
    update.UpdateCommand = _with(new, update.UpdateCommand)
    update.UpdateEvent = _with(new, update.UpdateEvent)
    for model in new:
        setattr(update, model.__name__, model)
    from tars.schemas import streams  # noqa: PLC0415 - it gathers the kinds when it is imported

    earlier: dict[str, type[Message]] = {"update.approve.v1": ApproveUpdate1, "update.approved.v1": UpdateApproved1}
    streams.KINDS = {**streams.KINDS, **earlier}


if __name__ == "__main__":
    install()
    from tars.cli.main import main

    main()
