"""Every setting, its unit and its bounds, in one place; names as in the table of docs/operations.md."""

import re
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tars.schemas.bounds import Strictness
from tars.schemas.errors import PREFIX, TarsError
from tars.schemas.update import ApprovalMode


class BadSetting(TarsError):
    """A variable has a value that is not allowed; the message names variable, value and what is."""


def bare(url: str) -> str:
    """Leave names and passwords out of an address, or out of several with commas between: so it may be shown."""
    return re.sub(r"(^|://|,)[^/,]*@", r"\1", url)


class Settings(BaseSettings):
    """What the environment says. Frozen: a process reads it once, at its start."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False)

    nats_url: str | None = Field(None, pattern=r"^(nats|tls|ws|wss)://.+")
    """Server to use, or several of a cluster with commas between; unset: embedded (`tars up`) or nats://localhost:4222."""
    nats_nkey_file: Path | None = None
    """Seed of this process's role on a secured server; unset: the one in TARS_DATA, where there is one."""
    nats_ca_file: Path | None = None
    """Certificates that vouch for a tls:// server; unset: those in TARS_DATA and the system's."""
    use_redis: bool = True
    """False: no Redis; the page asks the consumers instead."""
    redis_url: str | None = Field(None, pattern=r"^(redis|rediss|unix)://.+")
    """Server to use; unset: embedded (`tars up`) or redis://localhost:6379 (`tars run`)."""
    redis_max_history_length: int = Field(1000, ge=1, le=100_000)
    """Episodes kept in agent_history."""
    redis_ttl_seconds: int = Field(86_400, ge=1, le=31_536_000)
    """Lifetime of the six measured key families after their last event."""
    hyperparam_sync_enabled: bool = True
    """Propose every BETTER champion of a study with a target."""
    hyperparam_sync_port: int = Field(8098, ge=0, le=65_535)
    """The sync worker's HTTP port; 0: a free one."""
    approval_mode: ApprovalMode = "manual"
    autonomous_threshold: float = Field(0.03, ge=0.0, le=1.0)
    """Held-out gain needed, normalised score."""
    watch_episodes: int = Field(60, ge=10, le=1000)
    """How long each stage of a rollout is watched. Shorter finds less, longer only what harms slowly."""
    warm_up_episodes: int = Field(0, ge=0, le=100_000)
    """Episodes that new hosted worlds play as fast as they can, before they keep their pace."""
    validation_strictness: Strictness = "medium"
    use_real_training: bool = True
    """False: a closed-form surrogate, labelled, never promotable."""
    use_quick_mode: bool = False
    """Quick search trials unless a study says otherwise."""
    real_training_episodes: int = Field(50, ge=1, le=100_000)
    real_eval_episodes: int = Field(10, ge=1, le=10_000)
    quick_mode_train_episodes: int = Field(10, ge=1, le=100_000)
    quick_mode_eval_episodes: int = Field(5, ge=1, le=10_000)
    trainers: str = Field("", pattern=r"^\s*([A-Za-z_][\w.]*:[A-Za-z_]\w*\s*(,\s*|$))*$")
    """Functions, as module:function with commas between, that a trial may name as its trainer; they run in it."""
    four_eyes: Literal["auto", "on", "off"] = "auto"
    """On: who proposes may not approve. Auto: on when signatures or logins tell two approvers apart."""
    rate_limit_per_minute: int = Field(30, ge=0, le=100_000)
    """Commands per sender, about studies and updates together; 0: no limit."""
    use_mlflow: bool = False
    """True: `tars up` runs the MLflow sink too, where the extra mlflow is installed."""
    mlflow_tracking_uri: str | None = None
    """MLflow store of the sink; unset: a SQLite file in TARS_DATA."""
    ack_wait_seconds: float = Field(30.0, ge=1.0, le=600.0)
    """How long a dead worker keeps its message or lease; set on the durables by `tars provision`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    listen_address: str = Field("127.0.0.1", pattern=r"^[0-9A-Fa-f.:]+$")
    """Where workers and page serve HTTP; 0.0.0.0 in a container, whose network says who may ask."""
    stream_replicas: int = Field(1, ge=1, le=5)
    """Servers of a NATS cluster that hold each stream; set by `tars provision`."""
    otel_exporter_otlp_endpoint: str | None = Field(None, pattern=r"^https?://.+")
    """Collector of traces, OTLP over HTTP; unset: traces stay in logs and headers."""
    tars_data: Path = Path(".tars")
    """Folder of `tars up`."""
    tars_user: str = Field("", max_length=100)
    """Who sends commands from here, where no key says so; unset: the login name."""
    tars_key: Path | None = None
    """Key file that signs commands from here; unset: keys/operator.key in TARS_DATA, where there is one."""
    tars_trust: Path | None = None
    """Who may do what; unset: trust.toml in TARS_DATA, where there is one."""

    oidc_issuer: str | None = Field(
        None, pattern=r"^(https://[^\s?#]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/[^\s?#]*)?)$"
    )
    """Identity provider of those who log in at the page, as its id tokens name it; unset: nobody logs in."""
    oidc_client_id: str | None = Field(None, validate_default=True)
    """The page's name there: the audience of its id tokens."""
    oidc_client_secret_file: Path | None = None
    """File with what the page proves itself by there."""
    oidc_cookie_secret_file: Path | None = None
    """File with what signs the cookies of those who are logged in; unset: drawn at each start of the page."""
    oidc_redirect_uri: str | None = Field(None, pattern=r"^https?://\S+/oauth2callback$")
    """Where the identity provider sends people back; unset: http://127.0.0.1:<port>/oauth2callback."""
    oidc_scope: str = Field("openid profile email", pattern=r"^openid( \S+)*$")
    """What the page asks the identity provider for; some give groups only with a scope for them."""
    oidc_groups_claim: str = Field("groups", min_length=1)
    """Claim of the id token that lists a person's groups; dots lead into it, as in realm_access.roles."""
    oidc_viewers: str = "tars-viewers"
    """Groups whose members may look, with commas between."""
    oidc_proposers: str = "tars-proposers"
    """Groups whose members may also propose."""
    oidc_approvers: str = "tars-approvers"
    """Groups whose members may also approve."""
    dashboard_without_login: bool = False
    """True: the page may listen beyond loopback though nobody logs in, because something before it asks who it is."""
    dashboard_hosts: str = Field("", pattern=r"^[A-Za-z0-9.:*,\s-]*$")
    """Names by which the page is opened beside loopback's and that of OIDC_REDIRECT_URI, with commas between."""

    @field_validator("oidc_client_id")
    @classmethod
    def _issuer_needs_client(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("oidc_issuer") and not value:
            raise ValueError("OIDC_ISSUER needs it: the page's name at the identity provider")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object, info: ValidationInfo) -> object:
        may_be_unset = info.field_name is not None and cls.model_fields[info.field_name].default is None
        return None if value == "" and may_be_unset else value

    @cached_property
    def callable_trainers(self) -> frozenset[str]:
        """`trainers`, one by one."""
        return frozenset(name.strip() for name in self.trainers.split(",") if name.strip())

    @property
    def trust(self) -> Path:
        """Where the trust file is, if there is one."""
        return self.tars_trust or self.tars_data / "trust.toml"

    @cached_property
    def nats(self) -> str:
        """The NATS server of a single worker."""
        return self.nats_url or "nats://localhost:4222"

    @cached_property
    def redis(self) -> str | None:
        """The Redis server of a single worker; None: it does without."""
        return (self.redis_url or "redis://localhost:6379") if self.use_redis else None

    @cached_property
    def mlflow(self) -> str:
        """The MLflow store of the sink."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.tars_data.absolute() / 'mlflow.db'}"


def load_settings() -> Settings:
    """Read the environment; raises BadSetting with one line for all that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, e['loc'])).upper()}={e['input']!r} is not allowed: {e['msg'].removeprefix(PREFIX)}"
            for e in error.errors()
        )
        raise BadSetting("; ".join(wrong)) from error
