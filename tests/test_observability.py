"""Dashboards, rules and alerts ask for what workers measure, by labels that there are, and people can act on them."""

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser
import pytest
import yaml

from helm_and_promtool import PROMTOOL, needs_promtool
from tars.consumers.lag import COUNTED
from tars.runtime.metrics import DECLARED
from tars.schemas.hyperparameters import ALGORITHMS
from tars.schemas.streams import BUCKETS, DURABLES, KINDS, ROLES, STREAMS

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy" / "prometheus"
TARGET = frozenset({"job", "instance", "role"})
"""What scraping adds to every series."""
PROCESS = ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds")
ELSEWHERE = dict.fromkeys(("up", *PROCESS), TARGET)
VALUES = {
    "kind": set(KINDS), "durable": set(DURABLES), "view": set(COUNTED), "role": {*ROLES},
    "stream": {*STREAMS, *(bucket.stream for bucket in BUCKETS.values())},
    "algorithm": set(ALGORITHMS), "job": {"tars", "tars-page"},
}  # fmt: skip
"""What a label can be."""


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("rules.yaml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yaml")}
FILES = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))


def asked() -> Iterator[tuple[str, str]]:
    """Every query, and where it stands."""
    yield from RECORDED.items()
    yield from ((name, rule["expr"]) for name, rule in ALERTS.items())
    for file in FILES:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                if target["datasource"]["type"] == "prometheus":
                    yield f"{file.stem}: {panel['title']}: {target['refId']}", target["expr"]


QUERIES = dict(asked())


def selectors(node: object) -> Iterator[Any]:
    """All vector selectors of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for part in ("lhs", "rhs", "expr", "param", "vector_selector", "vs"):
        if (child := getattr(node, part, None)) is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def parsed(query: str) -> Any:
    return promql_parser.parse(query.replace("$__rate_interval", "1m"))


def series() -> dict[str, frozenset[str]]:
    """Every name that a query may ask for, and its labels."""
    found = {name: labels | TARGET for metric in DECLARED.values() for name, labels in metric.series.items()}
    recorded = {name: frozenset(name.partition(":")[0].split("_")) for name in RECORDED}
    return found | recorded | ELSEWHERE


SERIES = series()


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_asks_for_metrics_and_labels_that_there_are(name: str) -> None:
    found = list(selectors(parsed(QUERIES[name])))
    assert found, "a query asks for something"
    for selector in found:
        assert selector.name in SERIES
        for matcher in selector.matchers.matchers:
            assert matcher.name in SERIES[selector.name], f"{selector.name} has no label {matcher.name}"


@pytest.mark.parametrize("name", QUERIES)
def test_a_label_is_compared_with_something_that_it_can_be(name: str) -> None:
    for selector in selectors(parsed(QUERIES[name])):
        for matcher in selector.matchers.matchers:
            possible = VALUES.get(matcher.name, {matcher.value})
            pattern = matcher.value if "Re" in str(matcher.op) else re.escape(matcher.value)
            assert any(re.fullmatch(pattern, value) for value in possible), f"{matcher.name} is never {matcher.value}"


def test_the_dashboards_are_those_that_the_script_describes() -> None:
    generated = load(ROOT / "deploy" / "grafana" / "generate.py").files()
    assert {path: path.read_text() for path in FILES} == generated, "run: python deploy/grafana/generate.py"


def test_every_declared_metric_is_looked_at() -> None:
    """What no dashboard and no alert shows costs memory and tells nobody anything."""
    used = {selector.name for query in QUERIES.values() for selector in selectors(parsed(query))}
    assert [name for name, metric in DECLARED.items() if not used & set(metric.series)] == []


def test_every_alert_is_rehearsed_and_has_its_run_book() -> None:
    rehearsed = {
        case["alertname"]
        for test in yaml.safe_load((PROMETHEUS / "tests.yaml").read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if "exp_alerts" in case
    }
    headings = set(re.findall(r"^### (\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    assert set(ALERTS) == rehearsed
    assert sorted(set(ALERTS) - headings) == []
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert rule["labels"]["severity"] in {"page", "ticket", "info"}


def test_the_operators_table_of_metrics_is_complete() -> None:
    rows = re.findall(r"^\| `(tars_\w+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(DECLARED)


@needs_promtool
@pytest.mark.parametrize(
    "words", [("check", "config", "prometheus.yaml"), ("test", "rules", "tests.yaml")], ids=["config", "tests"]
)
@pytest.mark.slow
def test_prometheus_itself_takes_them(words: tuple[str, ...]) -> None:
    done = subprocess.run([str(PROMTOOL), *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
