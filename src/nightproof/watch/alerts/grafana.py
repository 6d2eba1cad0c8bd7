"""Make a Grafana dashboard of the same metrics, objectives and failure modes as the alerts have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nightproof.watch.alerts.rules import BURNS, Promise

_SCHEMA_VERSION = 39
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 12, 8


def dashboard(promises: Sequence[Promise]) -> dict[str, Any]:
    """Return the dashboard as Grafana's file provider and its import read it."""
    panels = [
        _panel(
            "Alerts that fire", [("{{alertname}} {{service}}", "nightproof_alert_firing == 1")], kind="table"
        ),
        _panel(
            "Conditions", [("{{failure}} {{service}}", "max by (failure, service) (nightproof_condition)")]
        ),
        _panel(
            "Requests by ending",
            [("{{ending}}", f"sum by (ending) (rate(nightproof_requests_total{_CHOSEN}[$__rate_interval]))")],
            unit="reqps",
        ),
        _panel(
            "Failures",
            [
                (
                    "{{failure}}",
                    f"sum by (failure) (rate(nightproof_requests_total{_FAILED}[$__rate_interval]))",
                )
            ],
            unit="reqps",
        ),
        *[panel for promise in promises for panel in _objective_panels(promise)],
        _panel(
            "Latency",
            [
                (f"p{share * 100:g}", _quantile(share, "nightproof_request_duration_seconds"))
                for share in (0.5, 0.99)
            ],
            unit="s",
        ),
        _panel(
            "Stages, p99",
            [
                (
                    "{{stage}}",
                    "histogram_quantile(0.99, sum by (le, stage)"
                    " (rate(nightproof_stage_duration_seconds_bucket[$__rate_interval])))",
                )
            ],
            unit="s",
        ),
        _panel(
            "Workers", [("{{service}} {{state}}", f"sum by (service, state) (nightproof_workers{_CHOSEN})")]
        ),
        _panel(
            "Waiting for a worker",
            [
                ("{{service}} depth", f"sum by (service) (nightproof_queue_depth{_CHOSEN})"),
                ("p99 wait, s", _quantile(0.99, "nightproof_queue_wait_seconds")),
            ],
        ),
        *_chat_panels(),
        _panel("Audit: longest commits", [("p99", _audit())], unit="s"),
        _panel(
            "Messages not delivered yet",
            [("{{receiver}}", "sum by (receiver) (nightproof_messages_waiting)")],
        ),
        _panel("Disk left", [("{{instance}}", "nightproof_disk_free_bytes")], unit="bytes"),
        _panel(
            "Memory of the server",
            [("{{instance}}", "nightproof_process_resident_memory_bytes")],
            unit="bytes",
        ),
    ]
    for place, panel in enumerate(panels):
        panel["id"] = place + 1
        panel["gridPos"] = {
            "x": place % 2 * _WIDTH,
            "y": place // 2 * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        }
    return {
        "uid": "nightproof",
        "title": "Nightproof",
        "tags": ["nightproof"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source_variable(), _service_variable()]},
        "panels": panels,
    }


_CHOSEN = '{service=~"$service"}'
_NOT_CLOSED = '{service=~"$service",state!="closed"}'
_FAILED = '{service=~"$service|",failure!=""}'


def _objective_panels(promise: Promise) -> list[dict[str, Any]]:
    """Return an objective's ratios beside the limits at which it alerts."""
    whose = f'{{service="{promise.service}"}}'
    kinds = [("errors", "availability", 1.0 - promise.availability)]
    if promise.latency_p99_ms is not None:
        kinds.append(("slow", f"slower than {promise.latency_p99_ms:g} ms", 0.01))
    panels = []
    for kind, words, budget in kinds:
        lines = [
            ("last 5 min", f"service:nightproof_{kind}:ratio_rate5m{whose}"),
            ("last hour", f"service:nightproof_{kind}:ratio_rate1h{whose}"),
            ("last 6 h", f"service:nightproof_{kind}:ratio_rate6h{whose}"),
        ]
        limits = sorted({burn.factor * budget for burn in BURNS if burn.severity == "page"})
        panels.append(_panel(f"{promise.service}: {words}", lines, unit="percentunit", limits=limits))
    return panels


def _chat_panels() -> list[dict[str, Any]]:
    """Return what chat services use, find and wait for; empty where there is none."""
    per_s = "[$__rate_interval]"
    first = "nightproof_chat_first_token_seconds"
    return [
        _panel(
            "Chat: tokens per second",
            [
                (
                    "{{service}} {{kind}}",
                    f"sum by (service, kind) (rate(nightproof_chat_tokens_total{_CHOSEN}{per_s}))",
                )
            ],
        ),
        _panel(
            "Chat: cost per hour",
            [
                (
                    "{{service}} {{model}}",
                    f"3600 * sum by (service, model) (rate(nightproof_chat_cost_total{_CHOSEN}{per_s}))",
                )
            ],
        ),
        _panel(
            "Chat: first token",
            [(f"p{share * 100:g}", _quantile(share, first)) for share in (0.5, 0.99)],
            unit="s",
        ),
        _panel(
            "Chat: budgets left",
            [
                (
                    "{{service}} {{budget}}",
                    f"min by (service, budget) (nightproof_chat_budget_left_ratio{_CHOSEN})",
                )
            ],
            unit="percentunit",
        ),
        _panel(
            "Upstreams: tries by how they ended",
            [
                (
                    "{{upstream}} {{failure}}",
                    f"sum by (upstream, failure) (rate(nightproof_upstream_attempts_total{_CHOSEN}{per_s}))",
                )
            ],
            unit="reqps",
        ),
        _panel(
            "Upstreams: breakers that are not closed",
            [
                (
                    "{{service}} {{upstream}} {{state}}",
                    f"max by (service, upstream, state) (nightproof_upstream_state{_NOT_CLOSED})",
                )
            ],
        ),
        _panel(
            "Chat: what checks found",
            [
                (
                    "{{check}} {{action}}",
                    f"sum by (check, action) (rate(nightproof_chat_findings_total{_CHOSEN}{per_s}))",
                )
            ],
        ),
        _panel(
            "Checks that gave no verdict",
            [("{{check}}", f"sum by (check) (increase(nightproof_checks_bypassed_total{_CHOSEN}{per_s}))")],
        ),
    ]


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share:g}, sum by (le) (rate({metric}_bucket{_CHOSEN}[$__rate_interval])))"


def _audit() -> str:
    return "histogram_quantile(0.99, sum by (le) (rate(nightproof_audit_commit_seconds_bucket[$__rate_interval])))"


def _panel(
    title: str,
    lines: Sequence[tuple[str, str]],
    *,
    kind: str = "timeseries",
    unit: str = "short",
    limits: Sequence[float] = (),
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": "red", "value": limit} for limit in limits]
    return {
        "type": kind,
        "title": title,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {"thresholdsStyle": {"mode": "line"}} if limits else {},
            },
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": expr,
                "legendFormat": legend,
                "instant": kind == "table",
            }
            for place, (legend, expr) in enumerate(lines)
        ],
    }


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _service_variable() -> dict[str, Any]:
    return {
        "name": "service",
        "type": "query",
        "datasource": _SOURCE,
        "query": "label_values(nightproof_workers, service)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
