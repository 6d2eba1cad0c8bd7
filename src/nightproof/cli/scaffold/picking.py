"""Pick the model's columns, in its order, out of the columns of a CSV. Called by `planning`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from nightproof.cli.scaffold.model import Wants
from nightproof.cli.scaffold.plan import Unfit

_NAMES_SHOWN = 6
_UNNAMED = re.compile(r"Unnamed: \d+")


@dataclass(frozen=True, kw_only=True)
class Picker:
    """Knows what the model wants and which column is the target."""

    file: str
    target: str
    wants: Wants

    def pick(self, there: Sequence[str]) -> list[str]:
        """Return the names that the model takes. Raises Unfit if they are not all there."""
        if self.wants.names is None:
            return self._by_position(there)
        plain = {_plain(name): name for name in reversed(there)}
        found = [name if name in there else plain.get(_plain(name), "") for name in self.wants.names]
        missing = [name for name, place in zip(self.wants.names, found, strict=True) if not place]
        if missing:
            raise self._lacks(missing, there)
        taken = [name for name in found if name not in self.wants.drops]
        if any(self.is_target(name) for name in taken):
            raise Unfit(
                f"The model takes the target {self.target!r} itself as an input.",
                hint="Name the column that it answers with --target, or train it without that column.",
            )
        return taken

    def is_target(self, name: str) -> bool:
        """Say whether this is the target, whatever blanks surround it."""
        return bool(self.target) and name.strip() == self.target

    def unused(self, there: Sequence[str], taken: Sequence[str]) -> list[str]:
        """List the columns that are neither input nor target."""
        return [name.strip() for name in there if name not in taken and not self.is_target(name)]

    def _by_position(self, there: Sequence[str]) -> list[str]:
        usable = [name for name in there if not self.is_target(name)]
        count = self.wants.count
        if count is not None and len(usable) > count:
            usable = [name for name in usable if not _UNNAMED.fullmatch(name)]
        if count is not None and len(usable) != count:
            where = "beside the target" if self.target else "(name the target with --target)"
            raise Unfit(
                f"The model takes {count} columns without names, and {self.file} has {len(usable)} {where}.",
                hint="Give a CSV with just the model's columns, in its order, or train it on a DataFrame, "
                "so that it knows their names.",
            )
        if not usable:
            raise Unfit(f"{self.file} has only the target.", hint="Give a CSV that has the inputs as well.")
        return usable

    def _lacks(self, missing: Sequence[str], there: Sequence[str]) -> Unfit:
        shown = ", ".join(map(repr, missing[:_NAMES_SHOWN]))
        if len(missing) > _NAMES_SHOWN:
            shown += f" and {len(missing) - _NAMES_SHOWN} more"
        close = get_close_matches(missing[0], there, n=1, cutoff=0.75)
        if any(name.startswith(f"{column}_") for name in missing for column in there):
            hint = "They look encoded by hand (get_dummies): save encoder and estimator as one Pipeline."
        elif close:
            hint = f"Is {missing[0]!r} the column {close[0]!r}? Name it in the CSV as it was in training."
        else:
            hint = "Give the CSV that the model was trained on, before any preprocessing outside the model."
        return Unfit(f"The model wants columns that {self.file} lacks: {shown}.", hint=hint)


def _plain(name: str) -> str:
    """Fold what converters change in names: blanks, dashes, case."""
    return re.sub(r"[^0-9a-z]+", "_", name.strip().lower())
