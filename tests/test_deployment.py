"""A cluster, the compose file and `tars up` run the same processes by the same settings, and none of them as root."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from helm_and_promtool import HELM, needs_helm
from tars.cli.main import app
from tars.runtime.settings import Settings
from tars.runtime.stack import Endpoints, programs, worker_ports
from tars.schemas.streams import ROLES

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "tars"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OURS: dict[str, Any] = {
    name: service for name, service in COMPOSE["services"].items() if service["image"].startswith("${TARS_IMAGE")
}
SINKS = {"mlflow"}
"""Runs only where it is asked for, here as there."""
BY_THE_CHART = {
    "NATS_URL", "REDIS_URL", "USE_REDIS", "STREAM_REPLICAS", "LISTEN_ADDRESS", "OTEL_EXPORTER_OTLP_ENDPOINT",
    "HYPERPARAM_SYNC_PORT", "TARS_TRUST", "TARS_KEY", "DASHBOARD_WITHOUT_LOGIN", "OIDC_CLIENT_SECRET_FILE",
    "OIDC_COOKIE_SECRET_FILE", "NATS_NKEY_FILE", "NATS_CA_FILE",
}  # fmt: skip
"""Settings that the chart derives from its values, so that nobody sets them beside these."""
LOCAL = {"TARS_DATA", "TARS_USER", "USE_MLFLOW", "MLFLOW_TRACKING_URI"}
"""Settings of `tars up`, of a person's shell, or of one process."""


def up() -> dict[str, list[str]]:
    """The programs of `tars up`: name -> its words after `tars`."""
    settings = Settings(use_mlflow=False)
    everything = programs(settings, Endpoints("nats://n", None, ""), worker_ports(settings), Path("/"))
    return {program.name: list(program.argv[3:]) for program in everything}


def roles(commands: Iterable[list[str]]) -> Counter[str]:
    """How many processes of each role, sinks aside."""
    return Counter(words[1] for words in commands if words[0] == "run" and words[1] not in SINKS)


def names(settings: Iterable[str]) -> set[str]:
    return {name.upper() for name in settings}


def test_compose_runs_the_processes_of_up_in_the_same_numbers() -> None:
    commands = [
        service["command"] for service in OURS.values() for _ in range(service.get("deploy", {}).get("replicas", 1))
    ]
    assert roles(commands) == roles(up().values())
    assert OURS["provision"]["command"][0] == "provision"


def test_the_chart_runs_the_processes_of_up_and_never_fewer_of_a_role() -> None:
    started = roles(up().values())
    assert set(VALUES["workers"]) - SINKS == set(started)
    assert [role for role, count in started.items() if VALUES["workers"][role]["replicas"] < count] == []
    assert VALUES["workers"]["mlflow"]["replicas"] == 0


def test_every_role_that_can_be_run_is_deployed() -> None:
    told = CliRunner().invoke(app, ["run", "--help"]).output
    known = {role for role in VALUES["workers"] if role in told}
    assert known == set(VALUES["workers"]) == set(OURS) - {"provision"}


@pytest.mark.parametrize("role", sorted(VALUES["workers"]))
def test_a_role_listens_on_one_port_everywhere(role: str) -> None:
    port = str(VALUES["workers"][role]["port"])
    service = OURS[role]
    assert service["command"] == ["run", role, "--port", port]
    assert f":{port}/" in service["healthcheck"]["test"][-1]
    documented = {"coordinator": "8097", "sync": "8098", "consumers": "3001", "agents": "8094", "dashboard": "3000"}
    assert documented.get(role, port) == port


def test_compose_and_chart_scrape_those_ports() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
    scraped = {found["names"][0]: found["port"] for job in jobs for found in job.get("dns_sd_configs", ())}
    assert {role: VALUES["workers"][role]["port"] for role in scraped} == scraped
    assert set(scraped) == set(OURS) - {"provision", "dashboard"}


def test_the_chart_takes_every_setting_and_no_other() -> None:
    known = set(SCHEMA["properties"]["settings"]["propertyNames"]["enum"])
    assert known == names(Settings.model_fields) - BY_THE_CHART - LOCAL


@pytest.mark.parametrize("service", sorted(OURS))
def test_compose_sets_nothing_that_is_no_setting(service: str) -> None:
    assert set(OURS[service]["environment"]) <= names(Settings.model_fields)


@pytest.mark.parametrize("service", sorted(OURS))
def test_a_container_can_write_nothing_and_become_nobody(service: str) -> None:
    found = OURS[service]
    assert found["read_only"]
    assert found["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in found["security_opt"]
    assert "USER 10001:10001" in (DEPLOY / "Dockerfile").read_text()


def test_compose_publishes_on_loopback_alone_and_names_only_what_there_is() -> None:
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
        sources = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        files = {source for source in sources if source.startswith("./")}
        assert all((DEPLOY / source).exists() for source in files)
        assert sources - files - {"/var/run/docker.sock"} <= set(COMPOSE["volumes"])


def test_a_container_on_a_secured_nats_gets_the_seed_of_its_own_role_and_no_other() -> None:
    secured = yaml.safe_load((DEPLOY / "compose.secure.yaml").read_text())
    for name in OURS:
        role = "admin" if name == "provision" else name
        authority, seed = secured["services"][name]["secrets"]
        assert (authority, seed["source"]) == ("ca", role)
        assert secured["secrets"][role]["file"].endswith(f"/{role}.nk")
        assert set(secured["services"][name]["environment"]) <= names(Settings.model_fields)
    assert set(secured["services"]) == {*OURS, "nats"}


@pytest.mark.parametrize("file", ["docs/deployment.md", "deploy/compose.secure.yaml"])
def test_a_secured_compose_is_given_the_seeds_that_its_containers_use_and_nothing_else(
    file: str,
) -> None:
    secured = yaml.safe_load((DEPLOY / "compose.secure.yaml").read_text())
    [(handed, _)] = re.findall(
        r"sudo chown (?:-R )?10001 deploy/nats-keys(/\{(.*)\}\.nk)?$", (ROOT / file).read_text(), re.MULTILINE
    )
    assert set(handed[2:-4].split(",")) == set(secured["secrets"]) - {"ca"}


def test_the_image_has_a_folder_of_its_user_wherever_a_volume_is_mounted() -> None:
    volumes = [volume for service in OURS.values() for volume in service.get("volumes", ()) if volume[0] != "."]
    made = re.findall(r"install -d -o 10001 -g 10001 (\S+)", (DEPLOY / "Dockerfile").read_text())
    assert {volume.split(":")[1] for volume in volumes} == set(made)


def test_every_image_has_its_version() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if service not in OURS.values()]
    images += [VALUES["nats"]["image"], VALUES["redis"]["image"]]
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+", image)] == []
    assert VALUES["nats"]["image"] == COMPOSE["services"]["nats"]["image"]
    assert VALUES["redis"]["image"] == COMPOSE["services"]["redis"]["image"]


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    told = CliRunner().invoke(app, ["--version"]).output.strip()
    assert (chart["version"], chart["appVersion"]) == (told, told)


def rendered(**values: str) -> list[dict[str, Any]]:
    words = [word for name, value in values.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]
    command = [str(HELM), "template", "tars", str(CHART), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def containers(objects: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(pod, container) of everything that runs."""
    pods = [
        found["spec"]["template"]["spec"] for found in objects if found["kind"] in {"Deployment", "StatefulSet", "Job"}
    ]
    return [(pod, container) for pod in pods for container in pod["containers"]]


@needs_helm
def test_everything_in_the_cluster_is_without_root_and_has_limits() -> None:
    found = containers(rendered())
    assert len(found) == len(VALUES["workers"]) + 3
    for pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


@needs_helm
def test_a_process_in_the_cluster_gets_what_up_would_give_it() -> None:
    objects = rendered(settings__APPROVAL_MODE="autonomous_all", settings__RATE_LIMIT_PER_MINUTE="100000")
    for found in (found for found in objects if found["kind"] == "Deployment"):
        [container] = found["spec"]["template"]["spec"]["containers"]
        role = found["metadata"]["labels"]["app.kubernetes.io/component"]
        given = {entry["name"]: entry["value"] for entry in container["env"]}
        assert container["args"] == OURS[role]["command"]
        assert set(given) <= names(Settings.model_fields)
        read = Settings.model_validate({name.lower(): value for name, value in given.items()})
        assert (read.approval_mode, read.rate_limit_per_minute) == ("autonomous_all", 100_000)
        assert read.stream_replicas == 3


@needs_helm
@pytest.mark.parametrize(("store", "enough"), [("64GB", 48e9), ("10GB", 7.5e9), ("2T", 1.5e12)])
def test_the_alert_of_a_full_store_knows_how_much_the_servers_may_store(store: str, enough: float) -> None:
    objects = rendered(monitoring__rules="true", nats__maxFileStore=store)
    [found] = [found for found in objects if found["kind"] == "PrometheusRule"]
    alerts = {rule.get("alert"): rule for group in found["spec"]["groups"] for rule in group["rules"]}
    assert float(alerts["TarsStorageFills"]["expr"].rpartition(" > ")[2]) == enough
    assert alerts["TarsStorageFills"]["annotations"]["summary"].endswith(f"B of {store}")


@contextmanager
def kubernetes(**objects: Mapping[str, Any]) -> Iterator[str]:
    """The address of what answers helm as a cluster does that has these objects alone: name -> object."""
    kinds = ("ConfigMap", "PersistentVolumeClaim")
    known: dict[str, object] = {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "groups": []},
    }
    resources = [{"name": f"{kind.lower()}s", "namespaced": True, "kind": kind, "verbs": ["get"]} for kind in kinds]
    known["/api/v1"] = {"kind": "APIResourceList", "groupVersion": "v1", "resources": resources}
    for name, found in objects.items():
        known[f"/api/v1/namespaces/tars/{found['kind'].lower()}s/{name.replace('_', '-')}"] = {
            "apiVersion": "v1",
            **found,
        }

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = known.get(self.path.partition("?")[0])
            self.send_response(200 if found else 404)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found or {"kind": "Status", "reason": "NotFound", "code": 404}).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def refusal(address: str, *values: str) -> str:
    """What the chart itself says against an upgrade there; empty: nothing."""
    words = [word for value in values for word in ("--set", value)]
    command = [str(HELM), "template", "tars", str(CHART), "--namespace", "tars", "--is-upgrade", "--dry-run=server"]
    reach = ["--disable-openapi-validation", "--kube-apiserver", address, "--kube-token", "x"]
    done = subprocess.run([*command, *words, *reach], capture_output=True, text=True, check=False)
    assert "no matches for kind" in done.stderr or "execution error" in done.stderr, done.stderr  # it came that far
    return done.stderr.partition("execution error at ")[2]


VOLUME = {"kind": "PersistentVolumeClaim", "metadata": {"name": "data"}}


@needs_helm
def test_the_chart_makes_no_cluster_of_a_single_server_which_would_delete_the_ledger() -> None:
    with kubernetes(data_tars_nats_0=VOLUME) as single:
        assert "a server that joins a cluster deletes the streams it had" in refusal(single, "nats.replicas=3")
        assert refusal(single, "nats.replicas=1") == ""
    with kubernetes(data_tars_nats_0=VOLUME, data_tars_nats_1=VOLUME) as cluster:
        assert "a single one does not open those of a cluster" in refusal(cluster, "nats.replicas=1")
        assert refusal(cluster, "nats.replicas=5") == ""
    with kubernetes() as empty:
        assert refusal(empty, "nats.replicas=3") == ""


@needs_helm
def test_the_chart_closes_no_nats_while_it_runs() -> None:
    secure = (
        "nats.secure.seedsSecret=s",
        "nats.secure.keysConfigMap=k",
        "nats.secure.tlsSecret=t",
        "nats.secure.routesSecret=r",
    )
    config = {"kind": "ConfigMap", "metadata": {"name": "tars-nats"}, "data": {"nats.conf": ""}}
    with kubernetes(tars_nats=config) as opened:
        assert "while NATS runs" in refusal(opened, *secure)
        assert refusal(opened) == ""
    with kubernetes(tars_nats=config | {"data": {"nats.conf": "", "accounts.conf": ""}}) as closed:
        assert "while NATS runs" in refusal(closed)
        assert refusal(closed, *secure) == ""


LOGIN = {
    "settings__OIDC_ISSUER": "https://idp.example.org", "settings__OIDC_CLIENT_ID": "tars", "trust__configMap": "trust",
    "trust__pageKeySecret__name": "page", "trust__loginSecret__name": "login",
}  # fmt: skip


def page_of(objects: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, Any]]:
    """The page's environment, and its pod."""
    [found] = [
        found
        for found in objects
        if found["kind"] == "Deployment" and found["metadata"]["labels"]["app.kubernetes.io/component"] == "dashboard"
    ]
    pod = found["spec"]["template"]["spec"]
    return {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}, pod


@needs_helm
def test_where_people_log_in_the_page_gets_its_secrets_as_files_and_everybody_the_issuer() -> None:
    objects = rendered(**LOGIN)
    given, pod = page_of(objects)
    read = Settings.model_validate({name.lower(): value for name, value in given.items()})
    assert (read.oidc_issuer, read.dashboard_without_login) == ("https://idp.example.org", False)
    assert str(read.oidc_client_secret_file) == "/run/login/client-secret"
    assert {"name": "login", "secret": {"secretName": "login", "defaultMode": 0o440}} in pod["volumes"]
    told = [{entry["name"] for entry in box["env"]} for _, box in containers(objects) if box["args"][0] == "run"]
    assert all("OIDC_ISSUER" in names for names in told)
    assert sum("OIDC_CLIENT_SECRET_FILE" in names for names in told) == 1


@needs_helm
@pytest.mark.parametrize("missing", ["trust__configMap", "trust__pageKeySecret__name", "trust__loginSecret__name"])
def test_a_login_that_cannot_work_is_not_installed(missing: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(**{**LOGIN, missing: ""})
    assert missing.replace("__", ".") in refused.value.stderr


@needs_helm
def test_a_page_at_which_nobody_logs_in_is_let_out_of_the_cluster_by_nobody() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(ingress__enabled="true")
    assert "nobody is asked who they are" in refused.value.stderr
    assert rendered(ingress__enabled="true", ingress__asksWhoItIs="true")
    assert rendered(ingress__enabled="true", **LOGIN)


@needs_helm
def test_the_page_knows_the_names_by_which_it_is_opened() -> None:
    given, _ = page_of(rendered(ingress__enabled="true", ingress__host="t.example.org", ingress__asksWhoItIs="true"))
    assert given["DASHBOARD_HOSTS"] == "tars-dashboard,t.example.org"
    given, _ = page_of(rendered(settings__DASHBOARD_HOSTS="proxy.example.org"))
    assert given["DASHBOARD_HOSTS"] == "proxy.example.org"


@needs_helm
def test_a_pod_on_a_secured_nats_gets_the_seed_of_its_own_role_and_no_other() -> None:
    secure = {
        f"nats__secure__{name}": name.lower() for name in ("seedsSecret", "keysConfigMap", "tlsSecret", "routesSecret")
    }
    roles = dict.fromkeys(VALUES["workers"])
    for found in rendered(**secure):
        if found["kind"] not in {"Deployment", "Job"}:
            continue
        pod = found["spec"]["template"]["spec"]
        role = found["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        seeds = [volume["secret"]["items"] for volume in pod["volumes"] if volume["name"] == "seed"]
        roles[role] = seeds[0][0]["key"]
        given = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        assert given["NATS_URL"] == "tls://tars-nats:4222"
        assert given["NATS_NKEY_FILE"] == "/run/tars/role.nk"
        assert len(seeds) == len(seeds[0]) == 1
    assert roles.pop("provision") == "admin.nk"
    assert roles == {role: f"{role}.nk" for role in VALUES["workers"]}
    assert set(VALUES["workers"]) <= set(ROLES)


@needs_helm
def test_only_what_may_be_twice_is_replaced_one_by_one() -> None:
    strategies = {
        found["metadata"]["labels"]["app.kubernetes.io/component"]: found["spec"]["strategy"]["type"]
        for found in rendered()
        if found["kind"] == "Deployment"
    }
    assert {role for role, strategy in strategies.items() if strategy == "Recreate"} == {"agents", "mlflow"}


@needs_helm
def test_the_bundled_nats_has_the_limits_of_the_embedded_one() -> None:
    [configuration] = [found["data"]["nats.conf"] for found in rendered() if "nats.conf" in found.get("data", {})]
    embedded = (DEPLOY / "nats" / "server.conf").read_text()
    for limit in ("max_payload", "sync_interval", "max_file_store"):
        pattern = re.compile(rf"^\s*{limit}: (\S+)$", re.MULTILINE)
        assert pattern.findall(configuration) == pattern.findall(embedded) != []


@needs_helm
def test_provisioning_comes_first_wherever_nats_is_there_before() -> None:
    def hooks(objects: list[dict[str, Any]]) -> list[str | None]:
        jobs = [found["metadata"] for found in objects if found["kind"] == "Job"]
        return [job.get("annotations", {}).get("helm.sh/hook") for job in jobs]

    assert hooks(rendered()) == [None]
    assert hooks(rendered(nats__bundled="false", nats__url="nats://n")) == ["pre-install,pre-upgrade,pre-rollback"]
