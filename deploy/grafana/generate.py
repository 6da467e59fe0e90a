"""The Grafana dashboards: described here, written to dashboards/*.json, which are committed. Run it after a change.

A test holds the files to this description, and every query in them to the metrics that workers declare.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"
PROMETHEUS: Final = {"type": "prometheus", "uid": "${prometheus}"}
LOKI: Final = {"type": "loki", "uid": "${loki}"}
COLUMNS: Final = 24
HEIGHT: Final = 8


STUDY_ENDS: Final = '"study[.](finished|stopped|failed)[.]v1"'


@dataclass(frozen=True)
class Panel:
    """One box: a title, a sentence on how to read it, and queries with the legend of their lines."""

    title: str
    reads: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    source: dict[str, str] | None = None
    """None: Prometheus."""

    def model(self, number: int, at: tuple[int, int]) -> dict[str, Any]:
        """As Grafana stores it; at: column and row of its upper left corner."""
        source = self.source or PROMETHEUS
        targets = [
            {"datasource": source, "expr": query, "legendFormat": legend, "refId": chr(65 + index)}
            for index, (query, legend) in enumerate(self.queries)
        ]
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.reads,
            "datasource": source,
            "gridPos": {"x": at[0], "y": at[1], "w": self.width, "h": HEIGHT},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}, "overrides": []},
            "options": OPTIONS.get(self.kind, {}),
            "targets": targets,
        }


OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    "stat": {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}},
    "logs": {"showTime": True, "wrapLogMessage": True, "enableLogDetails": True},
}


@dataclass(frozen=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    reads: str
    panels: Sequence[Panel]
    since: str = "now-6h"

    def model(self) -> dict[str, Any]:
        """As Grafana stores it."""
        logs = any(panel.source is LOKI for panel in self.panels)
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.reads,
            "tags": ["tars"],
            "schemaVersion": 39,
            "refresh": "10s",
            "time": {"from": self.since, "to": "now"},
            "templating": {"list": [_variable("prometheus"), *([_variable("loki")] if logs else [])]},
            "links": [{"type": "dashboards", "tags": ["tars"], "title": "TARS", "asDropdown": True}],
            "panels": [panel.model(number, at) for number, panel, at in _placed(self.panels)],
        }


def _variable(kind: str) -> dict[str, Any]:
    """Let whoever looks choose among the sources of a kind."""
    return {"type": "datasource", "name": kind, "label": kind.title(), "query": kind}


def _placed(panels: Sequence[Panel]) -> list[tuple[int, Panel, tuple[int, int]]]:
    """Number them, and put them from left to right into rows."""
    found, column, row = [], 0, 0
    for number, panel in enumerate(panels, 1):
        if column + panel.width > COLUMNS:
            column, row = 0, row + HEIGHT
        found.append((number, panel, (column, row)))
        column += panel.width
    return found


def stat(title: str, reads: str, query: str, unit: str = "short") -> Panel:
    """One number, a quarter as wide as the page."""
    return Panel(title, reads, [(query, "")], unit, "stat", 6)


OVERVIEW: Final = Dashboard(
    "tars-overview",
    "TARS: overview",
    "Whether it works, and what waits for a person.",
    [
        stat("Processes that answer", "Scraped with success.", 'sum(up{job=~"tars.*"})'),
        stat("Waiting for approval", "Updates that a person has to look at.", 'max(tars_view_rows{view="pending"})'),
        stat("Oldest view", "0 to 2 s is normal.", "max(stream:tars_view_age_seconds:min)", "s"),
        stat("Dead letters, 1 day", "Each is a bug or a stranger.", "sum(increase(tars_dead_letters_total[1d]))"),
        Panel(
            "Processes by role and version",
            "Two versions side by side: an upgrade is under way.",
            [("count by (role, version) (tars_worker_info)", "{{role}} {{version}}")],
        ),
        Panel(
            "How updates ended, in a day",
            "Rolled-back is the system at work; failed is not.",
            [("outcome:tars_updates_ended:increase1d", "{{outcome}}")],
        ),
        Panel(
            "Lag of the durables",
            "Waiting and in hands. Trials may wait; commands must not.",
            [("durable:tars_consumer_lag_messages:max", "{{durable}}")],
        ),
        Panel(
            "Messages stored",
            "By kind, a second.",
            [("topk(12, kind:tars_messages_stored:rate5m)", "{{kind}}")],
            "ops",
            width=12,
        ),
        Panel(
            "Open pages, agents, studies, updates",
            "Rows of the views.",
            [('max by (view) (tars_view_rows{view!="pending"})', "{{view}}")],
            width=12,
        ),
    ],
)

UPDATES: Final = Dashboard(
    "tars-updates",
    "TARS: updates and reloads",
    "From a command to the values in use.",
    [
        Panel(
            "Handling of commands, 99 %",
            "From arrival to the answer.",
            [('kind:tars_message_handling_seconds:p99_5m{kind=~"update.*"}', "{{kind}}")],
            "s",
        ),
        Panel(
            "What became of commands",
            "refused is an answer; retried and dead are not.",
            [('sum by (outcome) (kind_outcome:tars_message_handling:rate5m{kind=~"update.*"})', "{{outcome}}")],
            "ops",
        ),
        Panel(
            "Rollouts",
            "Running now, by worker; broken ones come back after some seconds.",
            [
                ('sum by (instance) (tars_leases_held{durable="run-rollout"})', "{{instance}}"),
                ('sum(increase(tars_leases_ended_total{durable="run-rollout",outcome="broken"}[1h]))', "broken, 1 h"),
            ],
        ),
        Panel(
            "Reload",
            "From a learner's hearing of new values to their use: 99 % and the middle.",
            [
                ("algorithm:tars_reload_seconds:p99_1h", "{{algorithm}} 99 %"),
                (
                    "histogram_quantile(0.5, sum by (algorithm, le) (rate(tars_reload_seconds_bucket[1h])))",
                    "{{algorithm}} 50 %",
                ),
            ],
            "s",
            width=12,
        ),
        Panel(
            "What agents say",
            "Events of agents in an hour.",
            [('sum by (kind) (increase(tars_messages_stored_total{kind=~"agent.*"}[1h]))', "{{kind}}")],
            width=12,
        ),
    ],
    "now-24h",
)

STUDIES: Final = Dashboard(
    "tars-studies",
    "TARS: studies and trials",
    "What searching costs, and whether it keeps up.",
    [
        Panel(
            "Trials that wait or train",
            "Trainers take up to 32 each.",
            [
                ('max(tars_consumer_waiting_messages{durable="run-trial"})', "waiting"),
                ("sum(tars_trials_held)", "in hands"),
            ],
        ),
        Panel(
            "Trials ended",
            "Failed ones diverged, or their trainer says why in the ledger.",
            [("outcome:tars_trials_ended:rate5m", "{{outcome}}")],
            "ops",
        ),
        Panel(
            "Processors busy with trials",
            "Seconds of processor time a second.",
            [("algorithm:tars_trial_cpu:rate5m", "{{algorithm}}")],
        ),
        Panel(
            "Processor time of a trial",
            "Its share of the population it was trained in: the middle.",
            [
                (
                    "histogram_quantile(0.5, sum by (algorithm, le) (rate(tars_trial_cpu_seconds_bucket[1h])))",
                    "{{algorithm}}",
                )
            ],
            "s",
        ),
        Panel(
            "Studies running",
            "By coordinator: up to 8 each.",
            [('sum by (instance) (tars_leases_held{durable="run-study"})', "{{instance}}")],
        ),
        Panel(
            "How studies ended, in a day",
            "",
            [(f"sum by (kind) (increase(tars_messages_stored_total{{kind=~{STUDY_ENDS}}}[1d]))", "{{kind}}")],
        ),
    ],
    "now-24h",
)

PROCESSES: Final = Dashboard(
    "tars-processes",
    "TARS: processes, bus and logs",
    "What each process uses, how NATS and Redis do, and what is logged.",
    [
        Panel(
            "Memory",
            "Resident; flat for all but trainers and agents.",
            [('process_resident_memory_bytes{job="tars"}', "{{role}} {{instance}}")],
            "bytes",
        ),
        Panel(
            "Processor",
            "Cores.",
            [('rate(process_cpu_seconds_total{job="tars"}[$__rate_interval])', "{{role}} {{instance}}")],
        ),
        Panel(
            "Age of the views",
            "Since everything of a stream was in them.",
            [("stream:tars_view_age_seconds:min", "{{stream}}")],
            "s",
        ),
        Panel(
            "Storing a message, 99 %",
            "NATS says yes once it is on disk.",
            [("stream:tars_storing_seconds:p99_5m", "{{stream}}")],
            "s",
        ),
        Panel(
            "Streams",
            "Bytes on each server. EVENTS and TRIALS only grow.",
            [("max by (stream) (tars_stream_bytes)", "{{stream}}")],
            "bytes",
        ),
        Panel(
            "Measurements",
            "Sent and lost, a second.",
            [
                ("sum by (kind) (rate(tars_reports_sent_total[$__rate_interval]))", "{{kind}}"),
                ("sum(rate(tars_reports_lost_total[$__rate_interval]))", "lost"),
            ],
            "ops",
        ),
        Panel(
            "Queries, 99 %",
            "Answering alone; page and command line ask.",
            [
                (
                    "histogram_quantile(0.99, sum by (query, le) (rate(tars_query_answering_seconds_bucket[5m])))",
                    "{{query}}",
                )
            ],
            "s",
        ),
        Panel(
            "Trouble",
            "Dead letters, skipped messages, lost connections, in an hour.",
            [
                ("sum by (reason) (increase(tars_dead_letters_total[1h]))", "dead: {{reason}}"),
                ("sum by (stream) (increase(tars_view_skipped_messages_total[1h]))", "skipped: {{stream}}"),
                ("sum by (role) (increase(tars_nats_reconnections_total[1h]))", "reconnected: {{role}}"),
            ],
        ),
        Panel(
            "Messages that came back",
            "Delivered more than once.",
            [("max by (durable) (tars_consumer_redelivered_messages)", "{{durable}}")],
        ),
        Panel(
            "Messages held",
            "By each stream. COMMANDS empties itself; DEAD should be empty.",
            [("max by (stream) (tars_stream_messages)", "{{stream}}")],
        ),
        Panel(
            "Not yet in MLflow",
            "Nothing waits for it: it catches up when it is back.",
            [("max by (stream) (tars_mlflow_waiting_messages)", "{{stream}}")],
        ),
        Panel(
            "Warnings and errors",
            "A line's trace_id leads to its trace.",
            [('{service_name=~"tars.*"} | json | level=~"warning|error|critical"', "")],
            kind="logs",
            width=24,
            source=LOKI,
        ),
    ],
)

DASHBOARDS: Final = (OVERVIEW, UPDATES, STUDIES, PROCESSES)


def files() -> dict[Path, str]:
    """Every file, and what belongs into it."""
    return {
        FOLDER / f"{dashboard.uid}.json": json.dumps(dashboard.model(), indent=1, sort_keys=True) + "\n"
        for dashboard in DASHBOARDS
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
        print(path.name)
