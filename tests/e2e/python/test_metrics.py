"""What Prometheus and Grafana make of `/metrics/prometheus`."""

import json
import math
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "stacyvm.json"


@pytest.fixture
def exposition(server, client, sandbox):
    """Taken after a little of everything has happened."""
    sandbox.exec("true")
    sandbox.exec("exit 3")
    with client.spawn(image="host"):
        pass
    httpx.get(f"{server.url}/api/v1/no/such/route")
    httpx.request("BREW", f"{server.url}/api/v1/sandboxes/{sandbox.id}")
    answer = httpx.get(f"{server.url}/api/v1/metrics/prometheus")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_every_family_is_one_of_a_kind_and_explained(exposition):
    kinds = re.findall(r"^# TYPE (\S+) (\S+)$", exposition, re.M)
    helps = re.findall(r"^# HELP (\S+) \S", exposition, re.M)
    assert [name for name, _ in kinds] == helps
    assert len(set(helps)) == len(helps)
    for name, kind in kinds:
        assert kind in ("counter", "gauge", "histogram"), name
        assert name.endswith("_total") == (kind == "counter"), name
    samples = [line.rsplit(" ", 1)[0] for line in exposition.splitlines() if line[0] != "#"]
    assert len(set(samples)) == len(samples), "a sample is there twice"


def test_histograms_add_up(exposition):
    found = 0
    for family in families(exposition).values():
        if family.type != "histogram":
            continue
        series = {}
        for sample in family.samples:
            labels = dict(sample.labels)
            bound = labels.pop("le", None)
            one = series.setdefault(tuple(sorted(labels.items())), {"buckets": []})
            if sample.name.endswith("_bucket"):
                one["buckets"].append((float(bound), sample.value))
            else:
                one[sample.name.rsplit("_", 1)[1]] = sample.value
        for labels, one in series.items():
            bounds = [bound for bound, _ in one["buckets"]]
            counts = [count for _, count in one["buckets"]]
            assert bounds == sorted(bounds) and bounds[-1] == math.inf, labels
            assert counts == sorted(counts), labels
            assert counts[-1] == one["count"] > 0, labels
            assert one["sum"] >= 0, labels
            found += 1
    assert found > 5


def test_requests_are_counted_by_closed_labels(exposition, sandbox):
    samples = families(exposition)["stacyvm_http_requests"].samples
    counted = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in samples
    }
    assert counted["POST", "/api/v1/sandboxes/{id}/exec", "2xx"] >= 2
    assert counted["GET", "none", "4xx"] >= 1
    assert counted["other", "/api/v1/sandboxes/{id}", "4xx"] >= 1
    assert sandbox.id not in exposition


def test_the_process_is_shown_under_the_usual_names(exposition, server):
    found = families(exposition)
    value = lambda name: found[name].samples[0].value  # noqa: E731
    with open(f"/proc/{server.process.pid}/stat") as stat:
        ticks = float(stat.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/stat") as stat:
        booted = float(re.search(r"^btime (\d+)$", stat.read(), re.M)[1])
    assert abs(value("process_start_time_seconds") - (booted + ticks / 100)) < 1.5
    assert value("process_resident_memory_bytes") > 1024 * 1024
    assert 5 < value("process_open_fds") < value("process_max_fds")


def test_the_dashboard_asks_only_for_what_there_is(exposition):
    there = set(re.findall(r"^([a-z_]+)[ {]", exposition, re.M))
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            names = set(re.findall(r"\b(?:stacyvm|process)_[a-z_]+", target["expr"]))
            assert names, panel["title"]
            asked |= names
    assert asked - there == set()
    assert len(asked) > 12


def test_metrics_as_json_have_what_the_contract_names(server, sandbox):
    sandbox.exec("true")
    metrics = httpx.get(f"{server.url}/api/v1/metrics").json()
    for key in ("uptime", "active_sandboxes", "total_sandboxes", "memory_alloc", "operations"):
        assert key in metrics
    assert set(metrics["sandboxes"]) == {"total", "active", "by_state", "by_provider"}
    assert metrics["sandboxes"]["by_provider"][server.provider] >= 1
    assert metrics["active_sandboxes"] == metrics["sandboxes"]["active"] >= 1
    assert metrics["memory_alloc"] > 1024 * 1024
    exec_figures = [one for one in metrics["operations"] if one["operation"] == "exec"]
    assert exec_figures and exec_figures[0]["count"] >= 1 and exec_figures[0]["avg_ms"] > 0
