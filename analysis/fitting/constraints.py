"""Laws with parameters that are pinned, bounded, or shared by families.

Floors and exponents can be; coefficients cannot, since they mean nothing apart from their exponent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.law import Array, Inputs, Law, PowerOfCompute, SizedLaw, Split
from analysis.fitting.power_law import PowerLaw, profiled
from cola.errors import FitError

COEFFICIENTS = ("A", "B", "K", "C", "C1")  # no constraint takes these
LOGARITHMS = ("R_D", "R_N")  # kept as logarithms
MOMENTA = ("lambda",)  # kept as the logarithm of 1 / (1 - value)


@dataclass(frozen=True)
class Constraints:
    """By a parameter's name: the value that it is pinned to, or its least and largest value."""

    pinned: Mapping[str, float] = field(default_factory=dict)
    bounded: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pinned or self.bounded)


FREE = Constraints()


def constrained(law: Law, constraints: Constraints) -> Law:
    """The law under these constraints.

    Raises:
        FitError: for a parameter that the law does not have or that no constraint takes, a value
            outside of what the law allows, or nothing that is left free.
    """
    if not constraints:
        return law
    low, high = (side.copy() for side in law.bounds)
    fixed = np.full(len(low), np.nan)
    for name, value in constraints.pinned.items():
        at = _index(law, name, "--pin")
        fixed[at] = _internal(law, name, value, option="--pin")
    for name, (least, largest) in constraints.bounded.items():
        at = _index(law, name, "--bound")
        low[at], high[at] = (
            _internal(law, name, end, option="--bound") for end in (least, largest)
        )
    if not np.isnan(fixed).any():
        raise FitError("--pin: leaves no parameter to fit; pin fewer")
    both = isinstance(law, SizedLaw) and isinstance(law, PowerOfCompute)
    kind = ConstrainedPowers if both else ConstrainedLaw
    return kind(law, fixed, (low, high), tuple(constraints.bounded))


def _index(law: Law, name: str, option: str) -> int:
    able = [each for each in law.names if each not in COEFFICIENTS]
    if name in COEFFICIENTS and name in law.names:
        raise FitError(
            f"{option} {name}: a coefficient depends on its exponent and on the units; constrain "
            f"{', '.join(able)}"
        )
    if name not in law.names:
        raise FitError(f"{option} {name}: law {law.name} has {', '.join(able)}")
    return law.names.index(name)


def _internal(law: Law, name: str, value: float, *, option: str) -> float:
    """The internal value of a parameter, checked against the law's own bounds."""
    least, largest = (float(side[law.names.index(name)]) for side in law.bounds)
    if name == "E":
        smallest = smallest_loss(law)
        if value >= smallest:
            raise FitError(
                f"{option} E={value:g}: is not below the smallest loss of the rows, {smallest:.6g};"
                " the floor of a law lies below all losses. Give a smaller value"
            )
        return value / smallest
    inner = float(np.log(value)) if name in LOGARITHMS and value > 0 else value
    if name in MOMENTA:
        inner = -float(np.log1p(-value)) if value < 1 else np.inf
    if (name in LOGARITHMS and value <= 0) or not least <= inner <= largest:
        ends = np.exp([least, largest]) if name in LOGARITHMS else (least, largest)
        ends = -np.expm1([-least, -largest]) if name in MOMENTA else ends
        raise FitError(
            f"{option} {name}={value:g}: law {law.name} takes {ends[0]:g} to {ends[1]:g}"
        )
    return inner


def smallest_loss(law: Law) -> float:
    """In whose units E is."""
    while not hasattr(law, "smallest"):
        law = vars(law)["base"]
    return float(law.smallest)


def inner_names(law: Law) -> tuple[str, ...]:
    """Of the internal parameters: all but pinned ones."""
    return law.free_names if isinstance(law, ConstrainedLaw | SharedLaw) else law.names


@dataclass(frozen=True)
class ConstrainedLaw:
    """A law with some internal parameters pinned (`fixed`, NaN where free) and bounds of its own.

    Its internal parameters are the free ones of `base`; its public ones are all of them.
    """

    base: Law
    fixed: Array
    limits: tuple[Array, Array]
    bounded: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See `Law`."""
        return self.base.name

    @property
    def names(self) -> tuple[str, ...]:
        """See `Law`."""
        return self.base.names

    @property
    def _free(self) -> NDArray[np.bool_]:
        return np.isnan(self.fixed)

    @property
    def free_names(self) -> tuple[str, ...]:
        """Of the internal parameters."""
        return tuple(n for n, free in zip(self.base.names, self._free, strict=True) if free)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        low, high = self.limits
        return low[self._free], high[self._free]

    def full(self, theta_BP: Array) -> Array:
        """Internal parameters of the base."""
        whole = np.tile(self.fixed, (len(theta_BP), 1))
        whole[:, self._free] = theta_BP
        return whole

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`."""
        found, slope = self.base.log_loss(self.full(theta_BP), points)
        return found, slope[..., self._free]

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`."""
        low, high = self.bounds
        return np.clip(self.base.starts(points, count, generator)[:, self._free], low, high)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        return self.base.public(self.full(theta_BP))


@dataclass(frozen=True)
class ConstrainedPowers(ConstrainedLaw):
    """The same of a law whose optimum and growth are known."""

    def optimum(self, theta_BP: Array, log_product: Array) -> Split:
        """See `SizedLaw`."""
        assert isinstance(self.base, SizedLaw)
        return self.base.optimum(self.full(theta_BP), log_product)

    def growth(self, theta_BP: Array) -> tuple[Array, Array]:
        """See `PowerOfCompute`."""
        assert isinstance(self.base, PowerOfCompute)
        return self.base.growth(self.full(theta_BP))


@dataclass(frozen=True)
class SharedLaw:
    """One law a family, with the parameters `shared` in common (default: a power law's exponents).

    Points carry their family's number in `group`; internal parameters are each family's own, one
    family after the other, then those in common. ceilings: of each family its smallest loss in
    units of all points', which its floor E cannot pass.
    """

    base: Law
    group: NDArray[np.int64]
    families: Sequence[str]
    shared: tuple[str, ...] = ("alpha", "beta", "gamma")
    ceilings: tuple[float, ...] | None = None
    name: str = field(default="shared")

    @property
    def _is_shared(self) -> NDArray[np.bool_]:
        return np.array([name in self.shared for name in inner_names(self.base)])

    @property
    def names(self) -> tuple[str, ...]:
        """E, A, B of every family, then the parameters in common (and pinned ones)."""
        own = [name for name in self.base.names if self._is_own(name)]
        of_families = [f"{name}[{family}]" for family in self.families for name in own]
        return (*of_families, *(name for name in self.base.names if not self._is_own(name)))

    def _is_own(self, name: str) -> bool:
        return name in inner_names(self.base) and name not in self.shared

    @property
    def free_names(self) -> tuple[str, ...]:
        """Of the internal parameters."""
        inner = inner_names(self.base)
        return tuple(n for n in self.names if n.partition("[")[0] in inner)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """See `Law`."""
        mine, (low, high) = self._is_shared, self.base.bounds
        count = len(self.families)
        tops = np.tile(high[~mine], (count, 1))
        own = [name for name in inner_names(self.base) if name not in self.shared]
        if self.ceilings is not None and "E" in own:
            at = own.index("E")
            narrowed = isinstance(self.base, ConstrainedLaw) and "E" in self.base.bounded
            ceilings = np.array(self.ceilings)
            tops[:, at] = np.minimum(tops[:, at], ceilings) if narrowed else ceilings
        return (
            np.concatenate([np.tile(low[~mine], count), low[mine]]),
            np.concatenate([tops.ravel(), high[mine]]),
        )

    def theta_of(self, theta_BP: Array, family: int) -> Array:
        """Internal parameters of the base for one family."""
        mine = self._is_shared
        own = int((~mine).sum())
        whole = np.empty((len(theta_BP), len(mine)))
        whole[:, ~mine] = theta_BP[:, family * own : (family + 1) * own]
        whole[:, mine] = theta_BP[:, len(self.families) * own :]
        return whole

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """See `Law`; the points must be those that `group` numbers."""
        log_loss = np.zeros((len(theta_BP), len(points)))
        gradient = np.zeros((*log_loss.shape, theta_BP.shape[1]))
        common = self._is_shared
        own = int((~common).sum())
        for family in range(len(self.families)):
            mine = np.flatnonzero(self.group == family)
            found, slope = self.base.log_loss(self.theta_of(theta_BP, family), points.subset(mine))
            log_loss[:, mine] = found
            first = family * own
            gradient[:, mine, first : first + own] = slope[..., ~common]
            gradient[:, mine, len(self.families) * own :] = slope[..., common]
        return log_loss, gradient

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """See `Law`: of a power law every family profiled at the same random exponents; what is in
        common is the families' mean."""
        parts = [points.subset(self.group == family) for family in range(len(self.families))]
        if isinstance(self.base, PowerLaw):
            base, terms = self.base, len(self.base.axes)
            rows = np.exp(generator.uniform(np.log(0.02), np.log(1.5), (count, terms)))
            each = [np.stack([profiled(base, row, part) for row in rows]) for part in parts]
        else:
            each = [self.base.starts(part, count, generator) for part in parts]
        common = self._is_shared
        means = np.mean([theta[:, common] for theta in each], axis=0)
        theta = np.concatenate([*(found[:, ~common] for found in each), means], axis=1)
        low, high = self.bounds
        return np.clip(theta, low, high)

    def public(self, theta_BP: Array) -> Array:
        """See `Law`."""
        each = [
            self.base.public(self.theta_of(theta_BP, family))
            for family in range(len(self.families))
        ]
        mine = np.array([self._is_own(name) for name in self.base.names])
        return np.concatenate([*(v[:, mine] for v in each), each[0][:, ~mine]], axis=1)


def shared_law(
    base: Law,
    points: Inputs,
    *,
    group: NDArray[np.int64],
    families: Sequence[str],
    shared: Sequence[str],
) -> SharedLaw:
    """One law for families that have these parameters in common.

    Raises:
        FitError: for a parameter that the law does not have, that is pinned, or that cannot be
            shared.
    """
    for name in shared:
        _index(base, name, "--share")
        if name not in inner_names(base):
            raise FitError(f"--share {name}: it is pinned (--pin), so that all groups have it")
    smallest = float(points.loss.min())
    ceilings = [float(points.loss[group == f].min()) / smallest for f in range(len(families))]
    return SharedLaw(base, group, tuple(families), tuple(shared), tuple(ceilings))
