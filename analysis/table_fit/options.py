"""The options of `cola fit`: what a law reads of them, and the places to predict at."""

from __future__ import annotations

import math
from collections.abc import Set

from analysis.fitting.laws import LAWS, OPTIONS_READ
from analysis.table_fit.request import Request
from cola.errors import SpecError

PLACES = ({"n", "d"}, {"c"})  # what a place to predict at is given by
# Laws whose linear parameters can be profiled out: those that are sums of powers.
PROJECTED = tuple(name for name, entry in LAWS.items() if entry.shared is not None)


def check_options(law: str, given: Set[str]) -> None:
    """Check that the law reads every option that was given, by their names in Python.

    Raises:
        SpecError: with those that would have no effect, and the laws that read them.
    """
    unread = sorted(given - OPTIONS_READ[law])
    if not unread:
        return
    flags = ", ".join(flag(name) for name in unread)
    readers = [name for name, read in OPTIONS_READ.items() if set(unread) <= read]
    remedy = f"leave it out, or take --law {' or '.join(readers)}" if readers else "leave it out"
    raise SpecError(f"{flags}: law {law} does not read {_it(unread)}; {remedy}")


def check_together(given: Set[str], request: Request) -> None:
    """Check options that have an effect only beside others.

    Raises:
        SpecError: with the remedy.
    """
    if "chance" in given and "accuracy" not in given:
        raise SpecError("--chance: has no effect without --accuracy; give its column too")
    if "resample" in given and not request.samples:
        raise SpecError("--resample: has no effect with --bootstrap 0; leave one of them out")
    projected = (*PROJECTED, "auto", "isoflop")
    if request.estimator == "variable-projection" and request.law not in projected:
        raise SpecError(
            f"--estimator variable-projection: law {request.law} has no linear parameters to "
            f"project out; take another estimator, or --law {' or '.join(PROJECTED)}"
        )


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + {"as_json": "json"}.get(name, name).replace("_", "-")


def parse_target(text: str) -> dict[str, float]:
    """`n=1e9,d=2e10` or `c=1e21` -> numbers.

    Raises:
        SpecError: when it is not of one of the two forms.
    """
    target: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        name = name.strip().lower()
        try:
            value = float(number)
        except ValueError:
            raise SpecError(f"--predict {text}: write it as n=1e9,d=2e10 or c=1e21") from None
        if name in target:
            raise SpecError(f"--predict {text}: gives {name} twice; repeat --predict for more")
        target[name] = value
    if not set(target) <= {"n", "d", "c"} or not all(
        math.isfinite(value) and value > 0 for value in target.values()
    ):
        raise SpecError(f"--predict {text}: takes positive n, d and c only")
    if set(target) not in PLACES:
        raise SpecError(f"--predict {text}: give n and d together, or c alone")
    if "n" in target and not 0 < 6 * target["n"] * target["d"] < math.inf:
        raise SpecError(f"--predict {text}: 6 N D is beyond what a number holds; give counts")
    return target


def candidates_of(names: list[str], estimator: str) -> list[str]:
    """The laws among these that the estimator fits."""
    if estimator != "variable-projection":
        return names
    return [name for name in names if name in PROJECTED]
