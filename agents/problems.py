"""What went wrong inside TARS while it is a guest in somebody's loop: kept, logged once, and never raised there."""

import logging
import threading
from collections.abc import Iterator

log = logging.getLogger(__name__)


class Problems:
    """The different problems of one link, oldest first. Any thread may add one."""

    def __init__(self, agent_id: str) -> None:
        self._agent_id = agent_id
        self._seen: dict[str, None] = {}
        self._lock = threading.Lock()

    def add(self, what: str, error: BaseException | None = None) -> None:
        """Note a problem; one that is known already is not logged again. A bug of ours is logged with its traceback."""
        text = what if error is None else f"{what}: {type(error).__name__}: {error}"
        with self._lock:
            if text in self._seen:
                return
            self._seen[text] = None
        log.warning("%s: %s", self._agent_id, text, exc_info=error)

    def __iter__(self) -> Iterator[str]:
        """Each once."""
        return iter(tuple(self._seen))
