"""`cola fit --design FILE`: the sizes that a fit predicts to be best, as a study's design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cola.errors import SpecError
from cola.spec.design import Parameters

COLUMNS: dict[str, Parameters] = {"core_parameters": "core", "total_parameters": "total"}


@dataclass(frozen=True)
class DesignFile:
    """A file to write, and what the fit's N counts."""

    path: Path
    counts: Parameters

    @classmethod
    def asked(
        cls, path: Path | None, counts: Parameters | None, column: str | None, places: list[str]
    ) -> DesignFile | None:
        """What --design and --counts ask for, over column N `column`, predicting at `places`.

        Raises:
            SpecError: there is no compute to predict at, or it is not known what N counts.
        """
        if path is None:
            if counts is not None:
                raise SpecError("--counts: has no effect without --design FILE; leave it out")
            return None
        if not places or not all(place.strip().startswith("c=") for place in places):
            raise SpecError("--design: needs its budgets: --predict c=FLOPs for each, alone")
        known = counts or COLUMNS.get(column or "")
        if known is None:
            raise SpecError(
                f"--design: what does {column or 'N'} count? Add --counts core (without token "
                "embeddings and output head) or --counts total"
            )
        return cls(path, known)

    def write(self, result: Mapping[str, Any], origin: str) -> None:
        """Write the design of a fit's JSON; `origin` names the table.

        Raises:
            SpecError: the fit is of several groups, predicts no sizes or a compute twice, or the
                file cannot be written.
        """
        if "groups" in result:
            names = ", ".join(result["groups"])
            raise SpecError(
                f"--design {self.path}: the table has several groups ({names}), and a study has "
                "one design; fit one group alone"
            )
        found = [place for place in result["predictions"] if "parameters" in place]
        if not found:
            raise SpecError(
                f"--design {self.path}: law {result['law']} predicts no sizes; take one over N and "
                "D, isoflop or optima"
            )
        budgets = [float(place["c"]) for place in found]
        twice = next((c for c in budgets if budgets.count(c) > 1), None)
        if twice is not None:
            raise SpecError(f"--predict c={twice:g}: asked for twice; --design takes it once")
        try:
            self.path.write_text(self.text(found, f"{origin}, law {result['law']}"))
        except OSError as error:
            raise SpecError(
                f"--design {self.path}: cannot be written ({error.strerror}); give another file"
            ) from None

    def text(self, places: list[Mapping[str, Any]], fit: str) -> str:
        """The YAML file, for `--set @FILE`."""
        points = [
            {
                "budget": float(place["c"]),
                "parameters": float(f"{place['parameters']:.4g}"),
                "extrapolation": float(f"{place['extrapolation']:.4g}"),
            }
            for place in sorted(places, key=lambda place: float(place["c"]))
        ]
        design = {
            "kind": "from_fit", "fit": fit, "counts": self.counts, "points": points,
            "budgets": [point["budget"] for point in points],
        }  # fmt: skip
        comment = "# For a study without a ladder: --set @THIS_FILE. Its FLOPs are the table's C.\n"
        return comment + yaml.safe_dump({"design": design}, sort_keys=False)
