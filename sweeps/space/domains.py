"""Values that a key of a sweep's space can take: a choice, or a range of numbers."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from cola.spec import Spec, canonical_json
from cola.spec.schema import or_list_of
from cola.spec.typed_values import plain_value

Value = Annotated[Any, AfterValidator(plain_value)]  # whatever a key of a study can hold
STEP_TOLERANCE = 1e-6  # of a step, for rounding


class Condition(Spec):
    """The key is part of a point only where another key of the space has one of these values."""

    key: str = Field(description="Another key of the space, named before this one.")
    among: list[Value] = Field(
        min_length=1, description="Values of that key with which this key is part of a point."
    )


When = Annotated[
    Condition | None,
    Field(description="Makes the key part of some points only; null: part of every point."),
]


class Choice(Spec):
    """One of some values; a bare list of them will do."""

    kind: Literal["choice"] = Field(default="choice", description="One of a list of values.")
    values: list[Value] = Field(
        min_length=1, description="The values, of any kind: numbers, names, whole mappings."
    )
    when: When = None

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, values: object) -> object:
        return {"values": values} if isinstance(values, list) else values


class Uniform(Spec):
    """A number between `low` and `high`."""

    kind: Literal["uniform"] = Field(
        default="uniform", description="A number from a range, all equally likely."
    )
    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    step: PositiveFloat | None = Field(
        default=None, description="Distance between values; null: any number of the range."
    )
    when: When = None

    @model_validator(mode="after")
    def _has_room(self) -> Uniform:
        _check_range(self.low, self.high)
        return self


class LogUniform(Spec):
    """A positive number between `low` and `high`, even in its logarithm."""

    kind: Literal["loguniform"] = Field(
        default="loguniform", description="A positive number, evenly distributed in its logarithm."
    )
    low: PositiveFloat = Field(description="Smallest value.")
    high: PositiveFloat = Field(description="Largest value.")
    when: When = None

    @model_validator(mode="after")
    def _has_room(self) -> LogUniform:
        _check_range(self.low, self.high)
        return self


class Integer(Spec):
    """A whole number from `low` to `high`, both included."""

    kind: Literal["integer"] = Field(
        default="integer", description="A whole number from a range, both ends included."
    )
    low: int = Field(description="Smallest value.")
    high: int = Field(description="Largest value.")
    step: PositiveInt = Field(default=1, description="Distance between values.")
    log: bool = Field(
        default=False,
        description="Evenly distributed in its logarithm; needs `low` of at least 1 and no `step`.",
    )
    when: When = None

    @model_validator(mode="after")
    def _has_room(self) -> Integer:
        _check_range(self.low, self.high)
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("log needs low of at least 1 and no step")
        return self


def _check_range(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"low={low:g} must be below high={high:g}")


def _kind_of(values: object) -> str:
    """A bare list is a choice."""
    if isinstance(values, dict):
        return str(values.get("kind", "choice"))
    return str(getattr(values, "kind", "choice"))


Domain = Annotated[
    Annotated[Choice, Tag("choice")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Integer, Tag("integer")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_domain",
        custom_error_message="kind must be choice, uniform, loguniform or integer",
    ),
    Field(json_schema_extra=or_list_of({})),
]
Range = Uniform | LogUniform | Integer
Space = dict[str, Domain]


def values_of(domain: Domain) -> list[Value] | None:
    """All values of a domain in order, or None where they cannot be counted."""
    if isinstance(domain, Choice):
        return list(domain.values)
    if isinstance(domain, Integer):
        return list(range(domain.low, domain.high + 1, domain.step))
    if isinstance(domain, Uniform) and domain.step is not None:
        steps = math.floor((domain.high - domain.low) / domain.step + 1e-9)
        return [round(domain.low + index * domain.step, 12) for index in range(steps + 1)]
    return None


def contains(domain: Domain, value: Value) -> bool:
    """Whether a value, in the form in which the key holds it, is one of a domain."""
    if isinstance(domain, Choice):
        return canonical_json(value) in map(canonical_json, domain.values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not domain.low <= value <= domain.high:
        return False
    if isinstance(domain, Integer):
        return (value - domain.low) % domain.step == 0
    if isinstance(domain, Uniform) and domain.step is not None:
        steps = (value - domain.low) / domain.step
        return abs(steps - round(steps)) < STEP_TOLERANCE
    return True


def describe_domain(domain: Domain) -> str:
    """The values of a domain, for messages."""
    if isinstance(domain, Choice):
        return ", ".join(map(canonical_json, domain.values))
    step = getattr(domain, "step", None)
    every = f" in steps of {step:g}" if step not in (None, 1) else ""
    return f"{domain.low:g} to {domain.high:g}{every}"
