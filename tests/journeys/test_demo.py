"""The demo needs no person, ends by itself, and its last line is one JSON object."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
KEYS = {
    "study_id", "trials", "verdict", "gain", "update_id", "outcome", "judged", "agents_reloaded", "reload_ms_p50",
    "reload_ms_max", "effective_equals_requested", "weights_kept", "buffer_kept", "events",
}  # fmt: skip
MILESTONES = ["proposed", "approved", "released", "started", "reloaded", "judged"]


def test_the_demo_tunes_and_reloads_live_agents_by_itself() -> None:
    command = [sys.executable, "-m", "tars", "demo", "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == KEYS
    assert result["trials"] == 20
    assert result["outcome"] in {"confirmed", "rolled-back"}
    assert result["agents_reloaded"] == 2 or result["outcome"] == "rolled-back"
    assert result["verdict"] in {"BETTER", "NOT_BETTER", "INCONCLUSIVE"}
    assert result["effective_equals_requested"]
    assert result["weights_kept"]
    assert result["buffer_kept"]
    verbs = [kind.split(".")[1] for kind in result["events"]]
    assert [verb for verb in dict.fromkeys(verbs) if verb in MILESTONES] == MILESTONES
    assert verbs[-1] == result["outcome"]
