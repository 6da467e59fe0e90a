"""What MLflow is to hold, made from histories alone."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from examples import ADA, AGENT, CHAMPION, EVIDENCE, EXAMPLES, HOLDER, RUNNING, STUDY, UPDATE
from tars.consumers.mlflow_records import Champion, Record, Run, Standing, model_name, records, watched
from tars.schemas.message import Message
from tars.schemas.streams import KINDS
from tars.schemas.trial import TrialFailed

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SILENT = {
    "study.resumed.v1", "update.refused.v1", "update.command-refused.v1", "update.released.v1", "update.resumed.v1",
    "update.roll-back-requested.v1", "update.started.v1", "update.reloaded.v1", "update.judged.v1",
}  # fmt: skip
"""Events of studies, trials and updates after which MLflow holds what it held before."""


@dataclass(frozen=True)
class Told:
    """A message as the journal gives it, a minute after the one before."""

    event: Message
    time: datetime


def of(*kinds: str) -> tuple[Record, ...]:
    """The records of one id whose history is the examples of these kinds."""
    history = [Told(EXAMPLES[kind], NOON + timedelta(minutes=n)) for n, kind in enumerate(kinds)]
    return records(history[0].event.noun, history)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_whatever_changes_a_study_a_trial_or_an_updates_fate_is_watched(kind: str) -> None:
    """A kind that is neither watched nor known to change nothing would be missing in MLflow for ever."""
    message = EXAMPLES[kind]
    counts = kind == "trial.run.v1" or (message.CHANNEL == "event" and message.noun in {"study", "trial", "update"})
    expected = (message.noun, message.key) if counts and kind not in SILENT else None
    assert watched(message.subject) == expected


def test_a_study_that_runs_is_a_run_with_all_that_fixes_its_course() -> None:
    (run,) = of("study.started.v1")
    assert isinstance(run, Run)
    assert (run.experiment, run.key, run.status, run.started, run.ended) == (
        "tars-dqn-policy", STUDY, "RUNNING", NOON, None,
    )  # fmt: skip
    assert run.params["trials"] == "20"
    assert run.params["incumbent.gamma"] == "0.99"
    assert run.tags["tars.by"] == "ada (unsigned)"
    assert run.tags["tars.agents"] == AGENT


def test_a_finished_study_has_its_held_out_numbers_and_a_champion() -> None:
    run, champion = of("study.started.v1", "study.resumed.v1", "study.finished.v1")
    assert isinstance(run, Run)
    assert isinstance(champion, Champion)
    assert (run.status, run.ended) == ("FINISHED", NOON + timedelta(minutes=2))
    assert {name: run.metrics[name] for name in ("gain", "search_gain", "seeds", "completed", "failed")} == {
        "gain": EVIDENCE.gain, "search_gain": EVIDENCE.search_gain, "seeds": 2, "completed": 19, "failed": 1,
    }  # fmt: skip
    assert champion.model == "tars-dqn-policy"
    assert set(champion.files) == {"hyperparameters.json", "evidence.json", "study.json"}
    assert champion.files["evidence.json"].encode() == EVIDENCE.canonical()
    wanted = {"tars.study": STUDY, "tars.verdict": "BETTER", "tars.gain": "0.1875", "tars.evidence": EVIDENCE.digest()}
    assert wanted.items() <= champion.tags.items()


@pytest.mark.parametrize(
    ("end", "status", "tag"),
    [("study.stopped.v1", "KILLED", "tars.reason"), ("study.failed.v1", "FAILED", "tars.error")],
)
def test_a_study_that_ended_otherwise_says_why_and_has_no_champion(end: str, status: str, tag: str) -> None:
    (run,) = of("study.started.v1", end)
    assert isinstance(run, Run)
    assert run.status == status
    assert run.tags[tag]


def test_a_trial_has_its_hyperparameters_and_what_was_measured() -> None:
    (run,) = of("trial.run.v1", "trial.completed.v1")
    assert isinstance(run, Run)
    assert (run.experiment, run.key, run.study_id, run.status) == ("tars-dqn-policy", f"{STUDY}.3", STUDY, "FINISHED")
    assert {name: run.params[name] for name in CHAMPION} == {name: str(value) for name, value in CHAMPION.items()}
    assert run.params["seed"] == "4611686018427387905"
    assert run.metrics == {"score": 0.75, "exact_score": 0.7421875, "cpu_seconds": 1.5}


def test_the_mark_of_a_failed_trial_is_no_score() -> None:
    """-1000 beside scores of 0 to 1 would make every chart unreadable."""
    failed = TrialFailed(study_id=STUDY, number=3, error="it diverged", holder=HOLDER)
    (run,) = records("trial", [Told(EXAMPLES["trial.run.v1"], NOON), Told(failed, NOON)])
    assert isinstance(run, Run)
    assert (run.status, dict(run.metrics), run.tags["tars.error"]) == ("FAILED", {}, "it diverged")


def test_an_outcome_of_what_nobody_asked_for_is_nothing() -> None:
    assert of("trial.completed.v1") == ()
    assert of("study.finished.v1") == ()
    assert of("update.confirmed.v1") == ()


def test_an_update_stands_confirmed_until_it_is_taken_back() -> None:
    confirmed = of("update.proposed.v1", "update.approved.v1", "update.confirmed.v1")
    assert confirmed == (Standing(STUDY, UPDATE, "confirmed", NOON + timedelta(minutes=2)),)
    back = of("update.proposed.v1", "update.confirmed.v1", "update.roll-back-requested.v1", "update.rolled-back.v1")
    assert back == (Standing(STUDY, UPDATE, "rolled back", None),)


def test_an_update_by_hand_is_nothing_to_mlflow() -> None:
    proposed = EXAMPLES["update.proposed.v1"].model_copy(update={"study_id": None, "by": ADA})
    assert records("update", [Told(proposed, NOON)]) == ()


def test_names_have_no_letter_that_mlflow_refuses() -> None:
    assert model_name("dqn", "ALE/Pong-v5") == "tars-dqn-ALE-Pong-v5"
    assert model_name("ppo", "my_package:Env-v0") == "tars-ppo-my_package-Env-v0"


def test_a_text_without_end_is_cut() -> None:
    started = EXAMPLES["study.started.v1"].model_copy(update={"environment": "x" * 9000, "incumbent": RUNNING})
    (run,) = records("study", [Told(started, NOON)])
    assert isinstance(run, Run)
    assert len(run.params["environment"]) == 5000
    assert len(run.experiment) == 200
