"""What a batch of messages does to the rows, and under which keys rows lie; the same for Redis and for memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

AGENTS: Final = "agents"
UPDATES: Final = "updates"
PENDING: Final = "pending"
STUDIES: Final = "studies"
CONFLICTS: Final = "conflicts:list"
EQUILIBRIA: Final = "equilibrium:list"
DEAD: Final = "dead:list"
METRICS: Final = "metrics:hash"
PIPELINE: Final = "pipeline:hash"
SESSIONS: Final = "websocket:subscribers"
SEEN: Final = "websocket:seen"
"""When each open page was last heard of, beside the set of its name."""

PUSHED: Final[Mapping[str, tuple[str, ...]]] = {
    "REPORTS": ("agent_history:*", CONFLICTS, EQUILIBRIA, SESSIONS, SEEN),
    "DEAD": (DEAD,),
}
"""By stream, the keys that grow instead of being set: a rebuild starts them afresh."""
OWNED: Final = (
    "agent_state:*", "agent:*", "update:*", "study:*", "cursor:*",
    AGENTS, UPDATES, PENDING, STUDIES, METRICS, PIPELINE, *PUSHED["REPORTS"], *PUSHED["DEAD"],
)  # fmt: skip
"""Every key of TARS, as patterns: what is removed when the ledger is another one."""


def agent_state(agent_id: str) -> str:
    """Hash: what an agent runs and how it does; gone some time after its last event or report."""
    return f"agent_state:{agent_id}"


def agent_ledger(agent_id: str) -> str:
    """Hash: what the ledger says about an agent, kept for ever: an agent_state that expired starts from it."""
    return f"agent:{agent_id}"


def agent_history(agent_id: str) -> str:
    """List: an agent's episodes, newest first."""
    return f"agent_history:{agent_id}"


def update(update_id: str) -> str:
    """Hash: an update."""
    return f"update:{update_id}"


def study(study_id: str) -> str:
    """Hash: a study."""
    return f"study:{study_id}"


def trials(study_id: str) -> str:
    """Hash: a study's trials, `<number>`: the trial, `<number>.episode`: how far it has come."""
    return f"study:{study_id}:trials"


def cursor(stream: str) -> str:
    """Hash: up to where a stream is in the rows: `epoch` (which stream, which form of rows) and `sequence`."""
    return f"cursor:{stream}"


@dataclass
class Fields:
    """Fields of a hash, each as JSON."""

    values: dict[str, str] = field(default_factory=dict)
    expires: int = 0
    """Unix time in seconds, never made earlier; 0: never."""
    seed: str = ""
    """The hash whose fields it starts with when it is not there."""


@dataclass
class Pushes:
    """What comes to the head of a list, oldest first, each with the sequence of its message."""

    items: list[tuple[int, str]] = field(default_factory=list)
    expires: int = 0


@dataclass
class Sessions:
    """Open pages heard of, and the moment before which an unheard one counts as closed (Unix seconds)."""

    seen: dict[str, float] = field(default_factory=dict)
    closed_before: float = 0.0
    expires: int = 0


@dataclass
class Changes:
    """The state that rows have after a batch, never a difference: to write it again changes nothing.

    Only what is pushed to lists would count twice, so it knows its sequence.
    """

    hashes: dict[str, Fields] = field(default_factory=dict)
    lists: dict[str, Pushes] = field(default_factory=dict)
    indexes: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Sorted sets: member -> score; None: it is no longer in."""
    sessions: Sessions | None = None

    def put(self, key: str, values: Mapping[str, str], *, expires: int = 0, seed: str = "") -> None:
        """Set fields of a hash."""
        have = self.hashes.setdefault(key, Fields(seed=seed))
        have.values.update(values)
        have.expires = max(have.expires, expires)

    def push(self, key: str, sequence: int, item: str, *, expires: int = 0) -> None:
        """Put an item before the others of a list."""
        have = self.lists.setdefault(key, Pushes())
        have.items.append((sequence, item))
        have.expires = max(have.expires, expires)

    def index(self, key: str, member: str, score: float | None) -> None:
        """Put a member into a sorted set, or take it out."""
        self.indexes.setdefault(key, {})[member] = score

    def after(self, sequence: int) -> "Changes":
        """Return what is left to write where everything up to `sequence` is written."""
        left = {
            key: Pushes([item for item in pushes.items if item[0] > sequence], pushes.expires)
            for key, pushes in self.lists.items()
        }
        return replace(self, lists={key: pushes for key, pushes in left.items() if pushes.items})
