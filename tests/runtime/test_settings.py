"""An invalid setting stops the start with one line that names variable, value and what is allowed."""

import pytest

from tars.runtime.settings import BadSetting, Settings, load_settings


def test_every_setting_has_the_documented_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATS_URL", "REDIS_URL", "USE_REDIS", "APPROVAL_MODE"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    assert settings.nats == "nats://localhost:4222"
    assert settings.redis == "redis://localhost:6379"
    assert (settings.approval_mode, settings.autonomous_threshold, settings.validation_strictness) == (
        "manual",
        0.03,
        "medium",
    )
    assert (settings.real_training_episodes, settings.quick_mode_train_episodes) == (50, 10)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("APPROVAL_MODE", "yolo", "'manual', 'autonomous_threshold' or 'autonomous_all'"),
        ("AUTONOMOUS_THRESHOLD", "3", "less than or equal to 1"),
        ("REDIS_TTL_SECONDS", "0", "greater than or equal to 1"),
        ("VALIDATION_STRICTNESS", "paranoid", "'low', 'medium' or 'high'"),
        ("USE_REDIS", "perhaps", "boolean"),
        ("NATS_URL", "localhost:4222", "nats|tls|ws|wss"),
        ("HYPERPARAM_SYNC_PORT", "70000", "65535"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting) as caught:
        load_settings()
    text = str(caught.value)
    assert name in text
    assert repr(value) in text
    assert allowed in text
    assert "\n" not in text


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPROVAL_MODE", "x")
    monkeypatch.setenv("REAL_EVAL_EPISODES", "0")
    with pytest.raises(BadSetting, match=r"APPROVAL_MODE.*REAL_EVAL_EPISODES|REAL_EVAL_EPISODES.*APPROVAL_MODE"):
        load_settings()


def test_without_redis_there_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_REDIS", "false")
    assert load_settings().redis is None


def test_what_is_blank_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a compose file has it, which passes each on."""
    unset = {name for name, value in load_settings() if value is None}
    for name in unset:
        monkeypatch.setenv(name.upper(), "")
    assert {name for name in Settings.model_fields if getattr(load_settings(), name) is None} == unset
    monkeypatch.setenv("APPROVAL_MODE", "")
    with pytest.raises(BadSetting, match="APPROVAL_MODE"):
        load_settings()
