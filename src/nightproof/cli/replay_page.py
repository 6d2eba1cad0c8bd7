"""The page of a replay: one self-contained HTML file with plots, to be sent around. No script, nothing fetched."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2733}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}td.n,th.n{text-align:right}
.big{font-size:2rem;font-weight:600}.card{display:inline-block;margin-right:2.5rem}.quiet{color:#5b6775}
svg{display:block;margin:.3rem 0}svg text{font:11px system-ui,sans-serif;fill:#5b6775}
pre{background:#f4f6f8;padding:.6rem;white-space:pre-wrap}
"""
_WIDTH, _HEIGHT, _LABELS = 640, 120, 22
_UP, _DOWN, _SAME = "#b4442a", "#2a6fb4", "#9aa6b2"


def page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    found = report["comparison"]
    title = f"{report['service']} through {report['version']}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(title)}</h1>",
        f"<p class=quiet>{escape(report['kind'])} {escape(report['id'])}, {escape(report['state'])};"
        f" live: {escape(report['live'])}</p>",
        _card(found["compared"], "records compared"),
        _card(found["changed"], f"would change ({_part(found['changed'], found['compared'])})"),
        _card(found["newly_failing"], "fail anew"),
        _card(found["newly_answered"], "are answered anew"),
        _card(found["skipped"], "could not be used"),
    ]
    if found["failures"]:
        parts.append("<h2>Fails by</h2>" + _bars(found["failures"], _UP))
    for name, field in found["fields"].items():
        parts.append(f"<h2>{escape(name)}</h2>")
        parts.append(f"<p>{field['changed']} of {field['compared']} change")
        if field["numbers"]:
            mean = field["sum_abs"] / field["numbers"]
            parts.append(f"; by {mean:.4g} on average, by {field['most_abs']:.4g} at most</p>")
            parts.append(_histogram(field["bins"], report["scale"]))
        else:
            parts.append("</p>")
        if field["moves"]:
            parts.append(_bars(field["moves"], _UP))
    if report["most_hit"]:
        parts.append("<h2>For whom</h2><p>Groups whose requests change more often than all do.</p>")
        parts.append(_groups(report["most_hit"]))
    if report["examples"]:
        parts.append("<h2>Examples</h2>")
        parts += [f"<pre>{escape(str(example))}</pre>" for example in report["examples"]]
    return "\n".join(parts) + "</html>\n"


def _card(number: int, text: str) -> str:
    return f"<div class=card><div class=big>{number:,}</div>{escape(text)}</div>"


def _histogram(bins: list[int], scale: list[str]) -> str:
    """Draw the signed changes on their logarithmic scale; unchanged ones in grey, in the middle."""
    used = [place for place, count in enumerate(bins) if count]
    if not used:
        return ""
    middle = len(bins) // 2
    reach = max(3, *(abs(place - middle) for place in used))
    shown = range(middle - reach, middle + reach + 1)
    most = max(bins[place] for place in shown)
    width = _WIDTH / len(shown)
    drawn = []
    for at, place in enumerate(shown):
        height = bins[place] / most * _HEIGHT
        colour = _SAME if place == middle else _UP if place > middle else _DOWN
        drawn.append(
            f"<rect x={at * width + 1:.1f} y={_HEIGHT - height:.1f} width={width - 2:.1f} height={height:.1f}"
            f' fill="{colour}"><title>{escape(scale[place])}: {bins[place]}</title></rect>'
        )
        if at % max(1, len(shown) // 10) == 0 or place == middle:
            drawn.append(
                f'<text x={(at + 0.5) * width:.1f} y={_HEIGHT + 15} text-anchor="middle">{escape(scale[place])}</text>'
            )
    return (
        f"<svg width={_WIDTH} height={_HEIGHT + _LABELS} role=img aria-label=changes>{''.join(drawn)}</svg>"
    )


def _bars(counts: dict[str, int], colour: str) -> str:
    most = max(counts.values())
    rows = []
    for at, (name, count) in enumerate(sorted(counts.items(), key=lambda one: -one[1])):
        rows.append(
            f'<rect x=220 y={at * 20 + 3} width={count / most * 340:.1f} height=14 fill="{colour}"></rect>'
            f'<text x=214 y={at * 20 + 14} text-anchor="end">{escape(name)}</text>'
            f"<text x={226 + count / most * 340:.1f} y={at * 20 + 14}>{count}</text>"
        )
    return (
        f"<svg width={_WIDTH} height={len(counts) * 20 + 6} role=img aria-label=counts>{''.join(rows)}</svg>"
    )


def _groups(groups: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one['by'])}<td>{escape(one['value'])}"
        f"<td class=n>{one['changed']}<td class=n>{one['compared']}<td class=n>{one['times']:.1f}"
        for one in groups
    )
    head = "<tr><th>what<th>value<th class=n>changed<th class=n>of<th class=n>times the share of all"
    return f"<table>{head}{rows}</table>"


def _part(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"
