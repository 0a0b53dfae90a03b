"""Do 95% intervals of the law with annealing hold the truth, and end losses of other schedules?

    python -m tests.benchmarks.annealing_law [--studies 100] [--refits 200]

Curves with known parameters under cosine and WSD, with independent noise, noise that is correlated
along a curve, and an offset of each run. Prints for every number its coverage and its bias over the
standard deviation of the estimates.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.signal import lfilter

from analysis.curve_laws.areas import annealing_area, forward_area
from analysis.curve_laws.curves import Curve
from analysis.curve_laws.fit import fit_curves, refits_of
from analysis.curve_laws.predictions import Schedule, prediction
from analysis.fitting.law import Array
from tests.benchmarks.extended_laws import Tally

TRUTH = {"E": 2.6, "A": 0.55, "alpha": 0.5, "C": 0.3, "lambda": 0.99}
OF_SIZES = TRUTH | {"E": 1.9, "C": 1.0, "B": 60.0, "beta": 0.28, "gamma": 0.1}


def losses(rates: Array, size: float | None = None) -> Array:
    """The law's loss after every step."""
    true = TRUTH if size is None else OF_SIZES
    extra, share = 0.0, 1.0
    if size is not None:
        extra, share = true["B"] * size ** -true["beta"], size ** -true["gamma"]
    forward = true["A"] * forward_area(rates) ** -true["alpha"]
    gain = true["C"] * share * annealing_area(rates, 1 / (1 - true["lambda"]))
    return np.asarray(true["E"] + extra + forward - gain)


def made(
    name: str,
    schedule: Schedule,
    generator: np.random.Generator,
    *,
    noise: float = 0.003,
    every: int = 20,
    correlation: float = 0.0,
    offset: float = 0.0,
    size: float | None = None,
) -> Curve:
    """A noisy curve under a schedule."""
    rates = schedule.rates()
    steps = np.arange(every, len(rates) + 1, every)
    drawn = generator.standard_normal(len(steps))
    drawn[1:] *= np.sqrt(1 - correlation**2)
    scatter = noise * lfilter([1.0], [1.0, -correlation], drawn)
    scatter += offset * generator.standard_normal()
    return Curve(name, steps, losses(rates, size)[steps - 1] * np.exp(scatter), rates, size)


def design(name: str, generator: np.random.Generator) -> list[Curve]:
    """The curves of one study."""
    cosine, wsd = Schedule("cosine", 4000, 1e-3), Schedule("wsd", 4000, 1e-3)
    if name == "two curves":
        return [made("a", cosine, generator), made("b", wsd, generator)]
    if name == "two curves, correlated":
        return [made(n, s, generator, correlation=0.7) for n, s in (("a", cosine), ("b", wsd))]
    if name == "eight curves, offsets":
        kinds = [Schedule(k, t, 1e-3) for k in ("cosine", "wsd") for t in (1000, 2000, 3000, 4000)]
        return [made(str(i), s, generator, offset=0.003) for i, s in enumerate(kinds)]
    return [
        made(f"{kind}-{size:g}", Schedule(kind, 2000, 1e-3), generator, size=size)
        for kind in ("cosine", "wsd")
        for size in (1e6, 3e6, 1e7, 3e7)
    ]


DESIGNS = ("two curves", "two curves, correlated", "eight curves, offsets", "eight curves, sizes")


def main() -> None:
    """Every design."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--refits", type=int, default=200)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    for name in (each for each in DESIGNS if asked.only in each):
        tally = Tally()
        for study in range(asked.studies):
            generator = np.random.default_rng(study)
            sized = "sizes" in name
            found = fit_curves(design(name, generator), "huber", sized=sized, starts=16)
            refits = refits_of(found, asked.refits, study)
            for key, ends in refits.intervals().items():
                truth = (OF_SIZES if sized else TRUTH)[key]
                tally.add(key, truth, found.fit.parameters[key], ends)
            target = Schedule("wsd", 8000, 1e-3, size=1e7 if sized else None)
            end = float(losses(target.rates(), target.size)[-1])
            result = prediction(found, refits, target, [])
            tally.add("end loss", end, result["loss"], result["confidence_interval"])
        tally.show(name)


if __name__ == "__main__":
    main()
