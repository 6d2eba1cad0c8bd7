"""Choose a detector's threshold from the site's own benign traffic, and keep it in a file of the service's folder.

Split conformal: of `n` scores of benign texts, the `k`th highest with `k = floor(rate · (n + 1))` is passed by a new
benign text with a chance of at most `rate`, whatever the scores look like, as long as the traffic stays of its kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from nightproof.base.errors import DeclarationError

FILE_NAME = "calibration.json"


class Calibrated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One detector's threshold, and where it is from."""

    threshold: float
    false_positive_rate: float
    """Which was asked for."""
    benign: int
    """Texts that it was chosen from."""
    version: int = 0
    """Of the features that the scores were made with; another version's threshold is not used. 0: an adapter's."""


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file `calibration.json`: thresholds by detector, for example `injection_model.prompt`."""

    detectors: dict[str, Calibrated] = {}


def calibrate(scores: Sequence[float], false_positive_rate: float) -> float:
    """Return the threshold that benign texts like those scored pass at most so often.

    A text finds something where its score is above the threshold. With too few scores for the rate no threshold is
    known to hold, and infinity is returned: at least `1 / rate - 1` are needed.
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError("the false positive rate lies between 0 and 1")
    if not all(map(math.isfinite, scores)):
        raise ValueError("a score is not a number")
    allowed = math.floor(false_positive_rate * (len(scores) + 1))
    if allowed == 0:
        return math.inf
    return sorted(scores, reverse=True)[allowed - 1]


def calibrated(
    scores: Mapping[str, Sequence[float]], false_positive_rate: float, *, version: int
) -> Calibration:
    """Return the calibration of several detectors; one with too few scores is left out."""
    found = {}
    for name, known in scores.items():
        threshold = calibrate(known, false_positive_rate)
        if math.isfinite(threshold):
            found[name] = Calibrated(threshold, false_positive_rate, len(known), version)
    return Calibration(found)


def written(calibration: Calibration) -> bytes:
    """Return the file's content."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n"


def read(path: Path | None) -> Calibration:
    """Read a calibration; without a file there is none."""
    if path is None or not path.is_file():
        return Calibration()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except msgspec.DecodeError as error:
        raise DeclarationError(
            f"{path.name} is no calibration: {error}.", hint="Make it again, or take it away."
        ) from error
