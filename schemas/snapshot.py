"""A snapshot of a learner: what it had learnt at some moment, as bytes in the object store SNAPSHOTS."""

from typing import Annotated

from pydantic import Field, StrictInt

from tars.schemas.message import Frozen


class SnapshotRef(Frozen):
    """Names a snapshot and fixes its content."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})+$")]
    """`<agent>.<run>.<episode>`; just before a reload `<agent>.<run>.v<version>`; a study's copy: `<study>.<agent>`."""
    agent_id: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its bytes."""
    episode: StrictInt
    """Episodes that the agent had finished in its run."""
    step: StrictInt
    """Gradient steps done."""
    version: StrictInt
    """The configuration it ran."""

    @property
    def before_reload(self) -> bool:
        """It was taken just before a configuration came into use."""
        return self.name.rpartition(".")[2].startswith("v")


def twin_of(agent_id: str) -> str:
    """Under which name the copy of an agent reports that goes on with the old values."""
    return f"{agent_id}-twin"


def copied(study_id: str, ref: SnapshotRef) -> SnapshotRef:
    """A study's own copy of a snapshot: its agent makes newer ones, and throws the old ones away."""
    return ref.model_copy(update={"name": f"{study_id}.{ref.agent_id}"})
