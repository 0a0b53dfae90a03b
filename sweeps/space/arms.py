"""Parts of a sweep with a search of their own, and searches that go on beyond their ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, NonNegativeInt

from cola.spec import Spec
from sweeps.space.domains import Space, Value


class Arm(Spec):
    """A part of the sweep with its own search and budget."""

    entry: str | None = Field(
        default=None,
        description="Entry of the base study's `families` that the arm trains alone. Keys of `set` "
        "and of the space that begin with `training.` are then its own, those of the space in "
        "place of rules for them; where it has no others, the sweep ends in `tuned.yaml`. Null: "
        "the study has one entry.",
    )
    rung: NonNegativeInt | None = Field(
        default=None,
        description="Rung of the base study that the arm trains, from 0. Null: the study has one.",
    )
    set: dict[str, Value] = Field(
        default={}, description="Keys of the study by their paths, with the arm's values."
    )
    space: Space = Field(default={}, description="Keys that the arm has beside the sweep's space.")

    def with_values_of(self, space: Space) -> Arm:
        """The arm with other values of those of its keys that `space` has."""
        mine = {key: space.get(key, domain) for key, domain in self.space.items()}
        return self.model_copy(update={"space": mine})


class WideningSpec(Spec):
    """More trials of an arm whose best one lies on an edge of what was searched.

    Once the arm's budget of trials is spent, a trial beyond the edge is the best one with that key
    one step further out, as long as this is better.
    """

    trials: NonNegativeInt = Field(
        default=0,
        description="Trials beyond edges that an arm gets at most, beside those of its budget; 0: "
        "none, and an optimum on an edge is only marked.",
    )
    factor: float = Field(
        default=2.0,
        gt=1,
        description="What one step beyond the edge of a logarithmic range multiplies or divides "
        "by; choices of numbers are continued by their last ratio, other ranges by a quarter.",
    )


def arms_at_rungs(arms: Mapping[str, Arm], rungs: Sequence[int]) -> dict[str, Arm]:
    """Every arm once for each rung, as NAME-rungN.

    Raises:
        ValueError: an arm has a rung of its own.
    """
    for name, arm in arms.items():
        if arm.rung is not None:
            raise ValueError(
                f"arms.{name}.rung={arm.rung}: rungs gives every arm's; leave one of them out"
            )
    return {
        f"{name}-rung{rung}" if name else f"rung{rung}": arm.model_copy(update={"rung": rung})
        for rung in rungs
        for name, arm in (arms or {"": Arm()}).items()
    }
