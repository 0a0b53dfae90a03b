"""What the specifications of every family have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import (
    Field,
    PositiveFloat,
    field_serializer,
    field_validator,
)

from cola.spec.base import SparseSpec, Spec
from cola.spec.design import RulesSpec, Rung, check_order
from cola.spec.training import TrainingSpec


class LatentError(Exception):
    """A value of a latent rule that cannot be: the rule's key, and why."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


class FamilySpec(Spec):
    """A specification that says whose it is: unions over the families choose by it.

    Every subclass that is used narrows `family` to a Literal with the family's name as its default.
    """

    family: str


class ModelSpec(FamilySpec):
    """Sizes of one model. Subclasses also have `vocab_size`: the entries of the tokenizer."""

    if TYPE_CHECKING:

        @property
        def vocab_size(self) -> int: ...


class ObjectiveSpec(FamilySpec):
    """What is minimised, stage by stage."""

    @abstractmethod
    def stage_shares(self) -> dict[str, float]:
        """Share of the run's compute by stage, in order; they add up to 1."""


class FamilySettings(SparseSpec, FamilySpec):
    """What a study can set of a family. Subclasses add `objective`, an `ObjectiveSpec`; all fields
    have defaults."""

    family: str = Field(
        description=(
            "Family of this entry; an entry that has the name of a family needs to give no other."
        )
    )
    training: TrainingSpec | None = Field(
        default=None,
        description="Training settings of this entry, key by key in place of the study's "
        "`training`; keys that it does not give are the study's.",
    )
    rules: RulesSpec | None = Field(
        default=None,
        description="Rules of this entry, key by key in place of the study's `rules`.",
    )

    sparse_keys: ClassVar[tuple[str, ...]] = ("budget_factor", "ladder")
    # Keys of `rules.latent` that the family reads; none where it has no latents.
    latent_keys: ClassVar[tuple[str, ...]] = ()

    def with_latents(self, values: dict[str, float], sequence_length: int) -> Self:
        """The settings with latents as rules give them: `values` by keys of `latent_keys`.

        Raises:
            LatentError: a value is none that its key can have.
        """
        return self

    budget_factor: PositiveFloat | None = Field(
        default=None,
        description="What every budget of the study's `ladder` or `design` is multiplied by for "
        "this entry, sizes of a ladder kept; null: 1.",
    )
    ladder: list[Rung] | None = Field(
        default=None,
        min_length=1,
        description="Rungs of this entry, from small to large, in place of the study's `ladder`.",
    )

    @field_validator("ladder")
    @classmethod
    def _climbs(cls, ladder: list[Rung] | None) -> list[Rung] | None:
        check_order(ladder or ())
        return ladder

    @field_serializer("training", "rules")
    def _only_what_was_given(self, value: Spec | None) -> dict[str, Any] | None:
        """A key that is written with its default is an own setting when it is read again."""
        return None if value is None else value.model_dump(mode="json", exclude_unset=True)

    if TYPE_CHECKING:

        @property
        def objective(self) -> ObjectiveSpec: ...
