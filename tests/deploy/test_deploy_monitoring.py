"""Alerts and dashboard ask for metrics that exist; promtool runs the rules in containers.py."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

import advanced.app.errors
from advanced.app import monitoring
from scripts.check_docs import ROOT
from shared.errors import AgentError

DEPLOY = ROOT / "advanced/deploy"
TARGET = {"job", "instance"}
"""What Prometheus itself adds to each series."""


def yaml_of(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


RULES = [
    rule for group in yaml_of(DEPLOY / "prometheus/alerts.yml")["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/agent.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Asked:
    """An expression, and the labels that its legend shows."""

    where: str
    text: str
    shown: frozenset[str] = frozenset()

    @property
    def tree(self) -> Any:
        return promql_parser.parse(self.text)


def asked() -> Iterator[Asked]:
    for rule in RULES:
        yield Asked(rule["alert"], rule["expr"])
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "5m")
            shown = frozenset(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            yield Asked(panel["title"], text, shown)


EXPRESSIONS = pytest.mark.parametrize("asked", list(asked()), ids=lambda asked: asked.where)


def labels_of_series() -> dict[str, set[str]]:
    """Each series that this service has, and those that Prometheus makes about it."""
    series = {"up": TARGET, "ALERTS": {"alertname", "alertstate", "severity", *TARGET}}
    for metric in vars(monitoring).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            labels = {*metric._labelnames, *TARGET}
            (described,) = metric.describe()
            match metric:
                case Counter():
                    series[f"{described.name}_total"] = labels
                case Gauge():
                    series[described.name] = labels
                case Histogram():
                    series[f"{described.name}_bucket"] = {*labels, "le"}
                    series[f"{described.name}_count"] = series[f"{described.name}_sum"] = labels
    return series


SERIES = labels_of_series()


def labels_of(selector: promql_parser.VectorSelector) -> set[str]:
    assert selector.name
    return SERIES[selector.name]


def parts(node: Any) -> list[Any]:
    """The node of an expression, and all nodes below it; the outermost come first."""
    below = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    children = [child for child in [*below, *getattr(node, "args", [])] if child]
    return [node, *(part for child in children for part in parts(child))]


def selectors(node: Any) -> list[promql_parser.VectorSelector]:
    return [part for part in parts(node) if isinstance(part, promql_parser.VectorSelector)]


def groupings(node: Any) -> list[promql_parser.AggregateExpr]:
    return [part for part in parts(node) if isinstance(part, promql_parser.AggregateExpr)]


@EXPRESSIONS
def test_expression_names_what_exists(asked: Asked) -> None:
    """It parses, and its metrics and their labels are ones that this service has."""
    assert selectors(asked.tree)
    for selector in selectors(asked.tree):
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels_of(selector)
    for grouping in groupings(asked.tree):
        named = {*grouping.modifier.labels} if grouping.modifier else set()
        assert all(named <= labels_of(selector) for selector in selectors(grouping))


@EXPRESSIONS
def test_only_this_service_is_asked_for(asked: Asked) -> None:
    """Another job's metrics of the same name are not mixed in."""
    for selector in selectors(asked.tree):
        jobs = [m.value for m in selector.matchers.matchers if m.name == "job"]
        assert jobs == ["agent"] or selector.name == "ALERTS"


@EXPRESSIONS
def test_legend_shows_what_is_left(asked: Asked) -> None:
    """A label in a legend survives the outermost aggregation."""
    grouping = groupings(asked.tree)[:1]
    kept = {*grouping[0].modifier.labels} if grouping and grouping[0].modifier else set()
    assert asked.shown <= kept


@EXPRESSIONS
def test_codes_are_ones_that_are_answered(asked: Asked) -> None:
    """An alert on a code that nobody raises would never fire."""
    codes = {kind.code for kind in family(AgentError)}
    for selector in selectors(asked.tree):
        for matcher in selector.matchers.matchers:
            assert matcher.name != "code" or matcher.value in codes


def family(kind: type[AgentError]) -> Iterator[type[AgentError]]:
    assert advanced.app.errors  # its errors are part of the family once it is imported
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def test_every_metric_is_on_the_dashboard() -> None:
    """What is measured can be seen."""
    seen = {
        re.sub(r"_(bucket|count|sum)$", "", selector.name or "")
        for each in asked()
        for selector in selectors(each.tree)
    }
    measured = {re.sub(r"_(bucket|count|sum)$", "", name) for name in SERIES}
    assert seen == measured


def test_dashboard_has_its_data_source() -> None:
    """The provisioned one, by its fixed id, in every panel; and each panel has an id of its own."""
    (source,) = yaml_of(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_alert_is_tested_both_ways() -> None:
    """promtool is told a case in which it fires, and one in which it does not."""
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in yaml_of(DEPLOY / "prometheus/alerts_test.yml")["tests"]
        for case in test["alert_rule_test"]
    ]
    assert set(cases) == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """It has an urgency, a sentence, and a place in the page on deployment."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "description"}
    assert f"`{rule['alert']}`" in (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


def test_prometheus_reads_the_rules_and_the_service() -> None:
    """The rules file is there, and the one target is the service, with its token."""
    settings = yaml_of(DEPLOY / "prometheus/prometheus.yml")
    services = yaml_of(ROOT / "advanced/compose.yaml")["services"]
    (job,) = settings["scrape_configs"]
    assert [(DEPLOY / "prometheus" / name).is_file() for name in settings["rule_files"]] == [True]
    assert [f"{name}:8000" for name in services if name == "api"] == [
        target for static in job["static_configs"] for target in static["targets"]
    ]
    assert job["job_name"] == "agent"
    secret = Path(job["authorization"]["credentials_file"])
    assert secret.parent == Path("/run/secrets")
    assert secret.name in services["prometheus"]["secrets"]
