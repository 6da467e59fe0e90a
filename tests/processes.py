"""What tests ask about processes that are not their own children."""

import subprocess
import time


def is_running(pid: int) -> bool:
    """Say whether it runs; a zombie has ended, whoever fails to collect it."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    return not state.stdout.strip().startswith("Z") and state.returncode == 0


def have_ended(*pids: int) -> bool:
    """Wait for all of them; False when one still runs after 15 seconds."""
    deadline = time.monotonic() + 15
    while any(map(is_running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
