"""The options of `cola fit`: what a law reads of them, and the places to predict at."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Literal

from analysis.fitting.constraints import Constraints
from analysis.fitting.laws import LAWS, OPTIONS_READ, SPEEDUP_OPTIONS
from analysis.table_fit.request import Request, Serving
from cola.errors import SpecError

SIGNED = ("delta",)  # parameters that may be negative
PLACES = ({"n", "d"}, {"c"}, {"n", "d", "u"}, {"c", "u"})  # what a place to predict at is given by
# Laws whose linear parameters can be profiled out: those that are sums of powers.
PROJECTED = tuple(name for name, entry in LAWS.items() if entry.shared is not None)


def check_options(law: str, given: Set[str]) -> None:
    """Check that the law reads every option that was given, by their names in Python.

    Raises:
        SpecError: with those that would have no effect, and the laws that read them.
    """
    if "speedup" in given:
        _check_speedup(given)
        return
    unread = sorted(given - OPTIONS_READ[law])
    if not unread:
        return
    if set(unread) <= SPEEDUP_OPTIONS - OPTIONS_READ[law] - {"group"}:
        flags = ", ".join(flag(name) for name in unread if name != "pin")
        if flags:
            raise SpecError(f"{flags}: has no effect without --speedup; add it, or leave it out")
    flags = ", ".join(flag(name) for name in unread)
    readers = [name for name, read in OPTIONS_READ.items() if set(unread) <= read]
    remedy = f"leave it out, or take --law {' or '.join(readers)}" if readers else "leave it out"
    raise SpecError(f"{flags}: law {law} does not read {_it(unread)}; {remedy}")


def _check_speedup(given: Set[str]) -> None:
    """Raises: SpecError, for options that --speedup does not read, or lacks."""
    unread = ", ".join(flag(name) for name in sorted(given - SPEEDUP_OPTIONS))
    if unread:
        raise SpecError(f"{unread}: --speedup does not read it; leave one of them out")
    for name, meaning in (
        ("group", "GROUP, the column that tells the change from the baseline"),
        ("pin", "E=VALUE, the floor of the losses' evaluation (E=0: none)"),
    ):
        if name not in given:
            raise SpecError(f"--speedup: needs {flag(name)} {meaning}")


def check_conventions(law: str, given: Set[str], columns: Sequence[Sequence[str]]) -> None:
    """Check what conventions side by side take.

    Raises:
        SpecError: a column that is given twice, or an option that takes one convention.
    """
    for name, names in zip(("n", "flops"), columns, strict=True):
        if len(set(names)) < len(names):
            raise SpecError(f"{flag(name)}: names a column twice; give each convention once")
    if law in ("optima", "power"):
        raise SpecError(f"--law {law}: takes one convention; give --n and --flops once each")
    single = given & {"predict", "serve", "accuracy", "share", "speedup", "y", "hold_out", "start"}
    if single:
        raise SpecError(
            f"{', '.join(flag(n) for n in sorted(single))}: takes one convention; give --n and "
            "--flops once each"
        )


def check_power(given: Set[str]) -> None:
    """Check what law power needs.

    Raises:
        SpecError: without a column, or a rule that lacks its name or its file.
    """
    if "y" not in given:
        raise SpecError("--law power: needs --y COLUMN, the setting that is fitted")
    if not given & {"n", "d", "flops"}:
        raise SpecError("--law power: needs one or two of --n, --d and --flops to fit over")
    for one, other in (("rules", "setting"), ("setting", "rules")):
        if one in given and other not in given:
            raise SpecError(f"{flag(one)}: has no effect without {flag(other)}; give both")


def check_together(given: Set[str], request: Request) -> None:
    """Check options that have an effect only beside others.

    Raises:
        SpecError: with the remedy.
    """
    if "chance" in given and "accuracy" not in given:
        raise SpecError("--chance: has no effect without --accuracy; give its column too")
    if "resample" in given and not request.samples:
        raise SpecError("--resample: has no effect with --bootstrap 0; leave one of them out")
    if "level" in given and not request.samples and request.law != "optima":
        raise SpecError("--level: has no effect with --bootstrap 0; leave one of them out")
    if "serve" in given and not any("c" in place for place in request.predict):
        raise SpecError("--serve: has no effect without a budget; give --predict c=... too")
    if request.start == "auto" and request.law == "auto":
        raise SpecError(
            "--from auto: is chosen for one law; give --law, or a compute in place of auto"
        )
    if "share" in given and "group" not in given:
        raise SpecError("--share: has no effect without --group; give its column too")
    if request.estimator == "variable-projection" and given & {"pin", "bound", "share"}:
        raise SpecError(
            "--estimator variable-projection: does not go with --pin, --bound and --share; take "
            "another estimator"
        )
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
    return "--" + {"as_json": "json", "start": "from"}.get(name, name).replace("_", "-")


def parse_target(text: str) -> dict[str, float]:
    """`n=1e9,d=2e10` or `c=1e21` -> numbers; for data of u unique tokens also `,u=1e10`.

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
    if not set(target) <= {"n", "d", "c", "u"} or not all(
        math.isfinite(value) and value > 0 for value in target.values()
    ):
        raise SpecError(f"--predict {text}: takes positive n, d and c only (and u, unique tokens)")
    if set(target) not in PLACES:
        raise SpecError(f"--predict {text}: give n and d together, or c alone")
    if "n" in target and not 0 < 6 * target["n"] * target["d"] < math.inf:
        raise SpecError(f"--predict {text}: 6 N D is beyond what a number holds; give counts")
    return target


def parse_start(text: str | None) -> float | Literal["auto"] | None:
    """`1e19` or `auto` -> from how much compute on rows are fitted.

    Raises:
        SpecError: what is neither.
    """
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise SpecError(f"--from {text}: give an amount of compute, as 1e19, or auto")
    return value


def parse_constraints(pins: Sequence[str], bounds: Sequence[str]) -> Constraints:
    """`E=1.69` and `alpha=0.3:0.4` -> values and bounds by name.

    Raises:
        SpecError: what is not of that form, or constrains a parameter twice.
    """
    pinned: dict[str, float] = {}
    bounded: dict[str, tuple[float, float]] = {}
    for text in pins:
        name, (value,) = _named_numbers(text, "--pin", form="E=1.69", count=1)
        if name in pinned:
            raise SpecError(f"--pin {text}: {name} is pinned twice; pin it once")
        pinned[name] = value
    for text in bounds:
        name, (low, high) = _named_numbers(text, "--bound", form="alpha=0.3:0.4", count=2)
        if name in pinned or name in bounded:
            raise SpecError(f"--bound {text}: {name} is constrained twice; keep one constraint")
        if not low < high:
            raise SpecError(f"--bound {text}: its first number is not below its second; swap them")
        bounded[name] = low, high
    return Constraints(pinned, bounded)


def _named_numbers(
    text: str, option: str, *, form: str, count: int
) -> tuple[str, tuple[float, ...]]:
    name, _, rest = text.partition("=")
    try:
        numbers = tuple(float(part) for part in rest.split(":"))
    except ValueError:
        numbers = ()
    if not name.strip() or len(numbers) != count or not all(math.isfinite(x) for x in numbers):
        raise SpecError(f"{option} {text}: write it as {form}")
    if min(numbers) < 0 and name.strip() not in SIGNED:
        raise SpecError(f"{option} {text}: {name.strip()} is not negative; mend the number")
    return name.strip(), numbers


def parse_share(text: str | None) -> tuple[str, ...]:
    """`E,alpha` -> names.

    Raises:
        SpecError: where a name is missing or there twice.
    """
    if text is None:
        return ()
    names = tuple(part.strip() for part in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise SpecError(f"--share {text}: write different parameters as E,alpha")
    return names


MOST = 1e30  # tokens, FLOP/s or a price beyond which a number is a slip of the pen
SERVING = ("tokens", "mfu", "serving_mfu", "peak", "price")


def parse_serving(text: str | None) -> Serving | None:
    """`tokens=1e12[,mfu=0.4,serving_mfu=0.1,peak=1e15,price=2.5]` -> what is served, and at what
    price.

    Raises:
        SpecError: what is not of that form, or has no effect.
    """
    if text is None:
        return None
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        name = name.strip()
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in SERVING or name in values or not 0 < value < math.inf:
            raise SpecError(
                f"--serve {text}: {part.strip()!r}: write it as tokens=1e12,mfu=0.4,"
                "serving_mfu=0.1,peak=1e15,price=2.5, each once and positive; tokens alone will do"
            )
        values[name] = value
    if "tokens" not in values:
        raise SpecError(f"--serve {text}: lacks the tokens to be served; add tokens=1e12")
    for name, value in values.items():
        if value > MOST:
            raise SpecError(f"--serve {text}: {name} is beyond {MOST:g}; give a count")
    for name in ("mfu", "serving_mfu"):
        if values.get(name, 1.0) > 1:
            raise SpecError(f"--serve {text}: {name} is a share of the peak; give at most 1")
    for name, other in (("serving_mfu", "mfu"), ("peak", "mfu"), ("price", "peak")):
        if name in values and other not in values:
            raise SpecError(f"--serve {text}: {name} needs {other} too; add {other}=...")
    if "mfu" in values and not values.keys() & {"serving_mfu", "peak"}:
        raise SpecError(
            f"--serve {text}: mfu has no effect alone, as serving is taken to reach the same; add "
            "serving_mfu=... or peak=..., or leave it out"
        )
    return Serving(**values)


def candidates_of(names: list[str], estimator: str) -> list[str]:
    """The laws among these that the estimator fits."""
    if estimator != "variable-projection":
        return names
    return [name for name in names if name in PROJECTED]
