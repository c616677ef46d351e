"""docs/alerts.yml uses only existing metrics, so that a rename cannot silence an alert."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import health
import redis_log
from market_data import MarketData
from settings import Settings
from tests.support import ROOT

[GROUP] = yaml.safe_load((ROOT / "docs/alerts.yml").read_text())["groups"]
RULES = {rule["alert"]: rule for rule in GROUP["rules"]}
DOCS = (ROOT / "docs/operations.md").read_text()
OF_PROMETHEUS = {"job", "instance"}  # labels that Prometheus adds


@pytest.fixture
def samples() -> list[Sample]:
    """The samples of a service that has read nothing yet, and `up`, which Prometheus adds."""
    settings = Settings.from_env({})
    service = MarketData(settings, redis_log.connect(settings.redis_url))
    families = text_string_to_metric_families(health.metrics(service.health()[1]))
    return [Sample("up", {}, 1.0), *(sample for family in families for sample in family.samples)]


@pytest.fixture(params=RULES)
def expression(request: pytest.FixtureRequest) -> str:
    return str(RULES[request.param]["expr"])


def test_each_metric_is_given(expression: str, samples: list[Sample]) -> None:
    texts, ranges, labels = r'"[^"]*"', r"\[[^]]*\]", r"\{[^}]*\}|\b(by|on|group_left) \([^)]*\)"
    bare = re.sub(f"{texts}|{ranges}|{labels}", "", expression)
    names = set(re.findall(r"[a-z_:]+\b(?! *\()", bare)) - {"or"}
    assert names and names <= {sample.name for sample in samples}


def test_each_label_is_given(expression: str, samples: list[Sample]) -> None:
    grouped = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expression)
    names = {name for names in grouped for name in re.findall(r"\w+", names)}
    names |= set(re.findall(r"(\w+)=", expression))
    assert names <= OF_PROMETHEUS.union(*(sample.labels for sample in samples))


def test_each_value_of_a_label_is_counted_from_the_start(
    expression: str, samples: list[Sample]
) -> None:
    for name, label, values in re.findall(r'(market_data_\w+)\{(\w+)=~?"([^"]+)"\}', expression):
        given = {sample.labels[label] for sample in samples if sample.name == name}
        assert set(values.split("|")) <= given


def test_the_documentation_knows_each_rule_and_its_job() -> None:
    rows = re.findall(r"^\| `(MarketData\w+)` \| ([^|]+) \|", DOCS, re.MULTILINE)
    assert [name for name, _ in rows] == list(RULES)
    [config] = re.findall(r"(?:^    .*\n)+", DOCS[DOCS.index("## Alerts") :], re.MULTILINE)[:1]
    scrape: dict[str, Any] = yaml.safe_load(config)
    assert scrape["rule_files"] == ["alerts.yml"]
    [job] = scrape["scrape_configs"]
    assert set(re.findall(r'job="([^"]+)"', str(RULES))) == {job["job_name"]}
    settings = Settings.from_env({})
    targets = [f"{settings.health_host}:{settings.health_port}"]
    assert job["static_configs"] == [{"targets": targets}]
