"""Judge windows by Evidently's default preset and by River's ADWIN and KSWIN. Runs in an environment of its own.

Reads JSON lines: the reference, then scenarios with their windows. Prints JSON: per scenario, in how many windows
Evidently called any column drifted, and the data set; and how often the River detectors fired on the numeric columns.
"""

import json
import sys
import time
import warnings

import pandas as pd

warnings.filterwarnings("ignore")

from evidently import Report  # noqa: E402
from evidently.presets import DataDriftPreset  # noqa: E402
from river import drift  # noqa: E402


def evidently(reference, windows):
    """Return per window: share of columns called drifted, and whether the data set is."""
    found = []
    for window in windows:
        result = Report([DataDriftPreset()]).run(pd.DataFrame(window), pd.DataFrame(reference)).dict()
        counted = next(
            one["value"]
            for one in result["metrics"]
            if "DriftedColumnsCount" in str(one.get("metric_id", one.get("metric_name")))
        )
        found.append((counted["count"], counted["share"]))
    return {
        "windows": len(windows),
        "any_column": sum(count > 0 for count, _ in found),
        "data_set": sum(share >= 0.5 for _, share in found),
        "first_any": next((place + 1 for place, (count, _) in enumerate(found) if count > 0), None),
        "first_data_set": next((place + 1 for place, (_, share) in enumerate(found) if share >= 0.5), None),
    }


def river(make, reference, windows, numbers):
    """Return how often any numeric column fired after the reference, and after how many rows first."""
    detectors = {name: make() for name in numbers}
    for row in reference[-2000:]:
        for name, one in detectors.items():
            if row[name] is not None:
                one.update(row[name])
    fired, first, rows = 0, None, 0
    for window in windows:
        for row in window:
            rows += 1
            for name, one in detectors.items():
                if row[name] is None:
                    continue
                one.update(row[name])
                if one.drift_detected:
                    fired += 1
                    first = first or rows
    return {"rows": rows, "alarms": fired, "first_row": first}


def main():
    lines = [json.loads(line) for line in sys.stdin]
    reference = []
    for line in lines:
        if "reference" in line:
            reference, numbers = line["reference"], line["numbers"]
            continue
        told = {"name": line["name"]}
        began = time.perf_counter()
        told["evidently"] = evidently(reference, line["windows"])
        told["evidently_ms_per_window"] = (time.perf_counter() - began) * 1e3 / max(1, len(line["windows"]))
        told["adwin"] = river(drift.ADWIN, reference, line["windows"], numbers)
        part = line["windows"][: line.get("kswin_windows", 10)]
        told["kswin"] = river(lambda: drift.KSWIN(seed=1), reference, part, numbers)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
