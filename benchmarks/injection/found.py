"""What the experiment `injection` found, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class RulesFound:
    """What the rules say of one source."""

    source: str
    kind: str
    rows: int
    hits: int


@dataclass(kw_only=True)
class ModelFound:
    """What a model says of a source it never saw."""

    source: str
    kind: str
    rows: int
    area: float
    """Under the curve, against the harmless rows left out with it."""
    recall: dict[float, float]
    """By the share of harmless rows that are flagged."""
    with_rules: float
    """Recall of the rules and the model at 1 % together."""


@dataclass(kw_only=True)
class HardFound:
    """How often harmless parts to play are flagged at a fold's threshold for 1 %."""

    fold: str
    source: str
    rows: int
    flagged: dict[float, float]


@dataclass(kw_only=True)
class Timed:
    """How long one text takes, all local checks on."""

    what: str
    p50_us: float
    p95_us: float


@dataclass(kw_only=True)
class InjectionFindings:
    """What the run found."""

    rules: list[RulesFound] = field(default_factory=list)
    models: list[ModelFound] = field(default_factory=list)
    hard: list[HardFound] = field(default_factory=list)
    times: list[Timed] = field(default_factory=list)
    drifted: dict[str, float] = field(default_factory=dict)
    """By fold: how many harmless rows of its own pass a threshold calibrated for 1 % on half of them."""
    not_run: str = ""

    def rules_total(self, label: int) -> tuple[int, int]:
        """Return hits and rows of all harmless or all attacking rows."""
        some = [found for found in self.rules if found.kind.startswith("benign") == (label == 0)]
        return sum(found.hits for found in some), sum(found.rows for found in some)

    def direct_recall(self, rate: float) -> float:
        """Return the recall over all direct attacks left out, of all sources."""
        some = [found for found in self.models if found.kind == "direct"]
        return sum(found.recall[rate] * found.rows for found in some) / sum(found.rows for found in some)

    def hard_rate(self) -> float:
        """Return the share of harmless parts to play that are flagged, over the folds."""
        return sum(found.flagged[0.01] * found.rows for found in self.hard) / sum(
            found.rows for found in self.hard
        )
