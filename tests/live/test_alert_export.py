"""What is exported for Prometheus and Grafana means what is judged here: promtool says so."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nightproof.base.failures import CATALOGUE
from nightproof.watch.alerts.grafana import dashboard
from nightproof.watch.alerts.prometheus import duration, rule_file, rule_groups
from nightproof.watch.alerts.rules import Promise
from tests.receivers import program
from tests.serving import Served, run_nightproof

PROMISES = [
    Promise(service="loans", availability=0.999, latency_p99_ms=250),
    Promise(service="late", availability=0.99),
]
RUNBOOKS = "http://here/runbooks"


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(
        [program("promtool", "prometheus"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def exported(scale: float = 1.0) -> list[dict[str, Any]]:
    """Return every rule that is exported."""
    return [
        rule for group in rule_groups(PROMISES, runbooks_url=RUNBOOKS, scale=scale) for rule in group.rules
    ]


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_promtool_accepts_the_rules_and_finds_none_twice(tmp_path: Path, scale: float):
    (tmp_path / "rules.yml").write_text(rule_file(rule_groups(PROMISES, runbooks_url=RUNBOOKS, scale=scale)))

    done = promtool("check", "rules", "--lint-fatal", tmp_path / "rules.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(exported())} rules found" in done.stdout


def test_every_failure_mode_that_alerts_is_exported_with_its_severity_and_runbook():
    alerts = [rule for rule in exported() if "alert" in rule]

    found = {(rule["alert"], rule["labels"]["failure"]) for rule in alerts}

    assert found == {(one.alert, one.code) for one in CATALOGUE.values() if one.severity != "none"}
    for rule in alerts:
        failure = rule["labels"]["failure"]
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}/{failure}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_promtool_fires_the_rules_on_series_that_should_and_on_no_others(tmp_path: Path):
    (tmp_path / "rules.yml").write_text(rule_file(rule_groups(PROMISES, runbooks_url=RUNBOOKS)))
    requests = (
        'nightproof_requests_total{{service="loans",release="r1",ending="{}",failure="{}",instance="a"}}'
    )
    series = [
        (requests.format("answered", ""), "0+970x90"),
        (requests.format("failed", "model_timeout"), "0+30x90"),
        (requests.format("refused", "invalid_input"), "0+5x90"),
        (requests.format("answered", "").replace("loans", "chat"), "0+500x90"),
        (requests.format("failed", "upstream_unreachable").replace("loans", "chat"), "0+500x90"),
        ('nightproof_condition{failure="upstream_down",service="chat",instance="a"}', "0x29 1x60"),
        ('nightproof_condition{failure="disk_low",service="",instance="a"}', "1x90"),
        ('nightproof_ready{instance="a"}', "1x60 _x30"),
    ]

    def expected(name: str, at: str, *alerts: dict[str, str]) -> dict[str, Any]:
        failure = next(one for one in CATALOGUE.values() if one.alert == name)
        annotations = {
            "summary": failure.title, "description": failure.meaning, "runbook_url": f"{RUNBOOKS}/{failure.code}",
        }  # fmt: skip
        told = [
            {"exp_labels": {"failure": failure.code, **labels}, "exp_annotations": annotations}
            for labels in alerts
        ]
        return {"eval_time": at, "alertname": name, "exp_alerts": told}

    page, ticket = {"severity": "page", "service": "loans"}, {"severity": "ticket", "service": "loans"}
    test = {
        "rule_files": [str(tmp_path / "rules.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": one, "values": values} for one, values in series],
                "alert_rule_test": [
                    expected("NightproofAvailabilityBurning", "60m", page, ticket),
                    expected("NightproofModelTimeout", "60m", page),
                    expected("NightproofInvalidInput", "60m"),
                    expected("NightproofUpstreamUnreachable", "25m", {**page, "service": "chat"}),
                    expected("NightproofUpstreamDown", "25m"),
                    expected("NightproofUpstreamUnreachable", "60m"),
                    expected("NightproofUpstreamDown", "60m", {**page, "service": "chat"}),
                    expected("NightproofDiskLow", "60m", {"severity": "page"}),
                    expected("NightproofWatchBlind", "60m"),
                    expected("NightproofWatchBlind", "75m", {"severity": "page"}),
                    expected("NightproofLatencyBurning", "60m"),
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(test))

    done = promtool("test", "rules", tmp_path / "test.yml")

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_asks_only_for_what_the_server_or_the_rules_give_and_promtool_reads_every_question(
    shared_faulty: Served, tmp_path: Path
):
    shared_faulty.predict(shared_faulty.example)
    told = run_nightproof("alerts", "dashboard", "--state", str(shared_faulty.state))
    made = json.loads(told.stdout)
    questions = [target["expr"] for panel in made["panels"] for target in panel["targets"]]
    recorded = {rule["record"] for rule in exported() if "record" in rule}
    kinds = set(re.findall(r"^# TYPE (\S+) ", shared_faulty.metrics(), re.MULTILINE))

    plain = [re.sub(r"\$__rate_interval", "5m", expr).replace("$service", ".*") for expr in questions]
    (tmp_path / "rules.yml").write_text(
        json.dumps(
            {
                "groups": [
                    {"name": "g", "rules": [{"record": f"a:b:c{n}", "expr": e} for n, e in enumerate(plain)]}
                ]
            }
        )
    )
    named = {name for expr in plain for name in re.findall(r"(?:service:)?nightproof_\w+(?::\w+)?", expr)}
    unknown = {
        one
        for one in named - recorded
        if re.sub(r"_(bucket|sum|count)$", "", one) not in kinds and one not in kinds
    }

    assert promtool("check", "rules", tmp_path / "rules.yml").returncode == 0
    assert unknown == set()
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"]) >= 12
    assert made["uid"] == "nightproof"


def test_a_dashboard_shows_each_objective_beside_its_limits():
    titles = [panel["title"] for panel in dashboard(PROMISES)["panels"]]

    assert {"loans: availability", "loans: slower than 250 ms", "late: availability"} <= set(titles)


def test_promtool_finds_nothing_wrong_with_the_names_of_our_alert_metrics(shared_faulty: Served):
    ours = "\n".join(
        line
        for line in shared_faulty.metrics().splitlines()
        if re.search("nightproof_(alert|condition|messages)", line)
    )
    done = subprocess.run(
        [program("promtool", "prometheus"), "check", "metrics"], input=ours + "\n", capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


def test_durations_are_written_as_prometheus_does():
    assert [duration(s) for s in (0.5, 6, 300, 5_400, 21_600, 259_200)] == [
        "500ms",
        "6s",
        "5m",
        "90m",
        "6h",
        "3d",
    ]
