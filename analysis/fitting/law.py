"""What a scaling law is: points, parameter vectors, predictions with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cola.errors import FitError

Array = NDArray[np.float64]
EXPONENTS = (1e-3, 3.0)  # bounds of every exponent


@dataclass(frozen=True)
class Inputs:
    """n points: compute C (FLOPs), and where known parameters N, tokens D and how many of these
    were unique; loss in nats."""

    loss: Array
    compute: Array
    parameters: Array | None = None
    tokens: Array | None = None
    unique: Array | None = None

    def __len__(self) -> int:
        return len(self.loss)

    def sizes(self) -> tuple[Array, Array]:
        """Parameters and tokens of each point.

        Raises:
            FitError: where they are not known.
        """
        if self.parameters is None or self.tokens is None:
            raise FitError("the number of parameters and of tokens of each point is needed")
        return self.parameters, self.tokens

    def unique_tokens(self) -> Array:
        """Unique tokens of the data of each point.

        Raises:
            FitError: where they are not known.
        """
        if self.unique is None:
            raise FitError("the number of unique tokens of each point's data is needed (--unique)")
        return self.unique

    def subset(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Inputs:
        """Some of the points."""
        rest = (
            None if v is None else v[index] for v in (self.parameters, self.tokens, self.unique)
        )
        return Inputs(self.loss[index], self.compute[index], *rest)


class Law(Protocol):
    """A law bound to the scale of the data that it is fitted to."""

    @property
    def name(self) -> str:
        """What `--law` calls it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the public parameters."""

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest value of every internal parameter."""

    def starts(self, points: Inputs, count: int, generator: np.random.Generator) -> Array:
        """(count, P) internal parameters to start from."""

    def log_loss(self, theta_BP: Array, points: Inputs) -> tuple[Array, Array]:
        """Log of the predicted loss (B, n), and its gradient (B, n, P)."""

    def public(self, theta_BP: Array) -> Array:
        """(B, number of names): parameters in the units of the data."""


@dataclass(frozen=True)
class Split:
    """The compute-optimal division of products N D (n,), by parameter vector: logs of N* and D*,
    and the loss there, all (B, n)."""

    log_parameters: Array
    log_tokens: Array
    loss: Array


@runtime_checkable
class SizedLaw(Law, Protocol):
    """A law of parameters and tokens whose optimum at a given N D is known in closed form."""

    def optimum(self, theta_BP: Array, log_product: Array) -> Split:
        """The best N and D at every log (N D) (n,), and the loss."""


@runtime_checkable
class PowerOfCompute(Law, Protocol):
    """A law whose compute-optimal loss is E + K C^-gamma exactly."""

    def growth(self, theta_BP: Array) -> tuple[Array, Array]:
        """E (B,) in nats and gamma (B,)."""


def predicted(law: Law, theta_BP: Array, points: Inputs) -> Array:
    """Predicted loss (B, n)."""
    return np.exp(law.log_loss(theta_BP, points)[0])
