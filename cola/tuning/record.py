"""The record of a tuning sweep: the settings that it found, and all that they rest on.

A sweep writes it as `tuned.yaml`, and a study takes it under the key `tuning`. Its digest shows
whether it is still as the sweep wrote it.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    field_serializer,
    field_validator,
)

from cola.spec.base import Spec, canonical_json
from cola.spec.design import Budget, RulesSpec
from cola.spec.training import TrainingSpec

LEARNING_RATE = "training.optimizer.learning_rate"


class BudgetTuning(Spec):
    """The search of one entry at one budget."""

    budget: Budget = Field(description="Training FLOPs of each trial's run.")
    parameters: PositiveInt = Field(description="Size of each trial's model.")
    trials: NonNegativeInt = Field(description="Trials that were started.")
    finished: NonNegativeInt = Field(description="Those that trained to their end.")
    stopped: NonNegativeInt = Field(description="Those that the scheduler ended early.")
    diverged: NonNegativeInt = Field(description="Those that diverged or collapsed.")
    failed: NonNegativeInt = Field(description="Those that ended with an error.")
    beyond: NonNegativeInt = Field(
        description="Those beyond an edge of what the search began with, which `trials` contains."
    )
    flops: NonNegativeFloat = Field(description="Executed training FLOPs of the trials.")
    shared_flops: NonNegativeFloat = Field(
        description="Executed FLOPs of finished runs and first stages taken from others, not in "
        "`flops`."
    )
    metric: float = Field(description="The best trial's metric.")
    at_edge: list[str] = Field(description="Keys of which the best value lies on an edge.")


class EntryTuning(Spec):
    """What was found for one entry of a study's families."""

    family: str = Field(description="Family of the entry.")
    nll_kind: str = Field(description="What the entry's NLL is: `exact`, `bound`, ...")
    searched: dict[str, str] = Field(
        min_length=1, description="What was searched of each key, the entry's own training."
    )
    budgets: list[BudgetTuning] = Field(min_length=1, description="The searches, by budget.")
    training: TrainingSpec | None = Field(
        default=None, description="Values found, key by key in place of the entry's `training`."
    )
    rules: RulesSpec | None = Field(
        default=None, description="Rules found, key by key in place of the entry's `rules`."
    )
    conditions: dict[str, str] = Field(
        default={}, description="The entry's other settings, with which it was tuned."
    )
    notes: list[str] = Field(default=[], description="What a reader should know, in sentences.")

    @field_validator("budgets")
    @classmethod
    def _are_in_order(cls, budgets: list[BudgetTuning]) -> list[BudgetTuning]:
        values = [item.budget for item in budgets]
        if values != sorted(set(values)):
            raise ValueError("must be listed once each, from small to large")
        return budgets

    @field_serializer("training", "rules")
    def _only_what_was_found(self, value: Spec | None) -> dict[str, Any] | None:
        return None if value is None else value.model_dump(mode="json", exclude_unset=True)

    @property
    def trials(self) -> int:
        """Trials over all budgets."""
        return sum(item.trials for item in self.budgets)

    @property
    def beyond(self) -> int:
        """Trials beyond edges over all budgets."""
        return sum(item.beyond for item in self.budgets)

    @property
    def drawn(self) -> int:
        """Trials of the searches proper: without those beyond edges."""
        return self.trials - self.beyond

    @property
    def flops(self) -> float:
        """Executed training FLOPs of all trials."""
        return sum(item.flops for item in self.budgets)

    @property
    def shared_flops(self) -> float:
        """Executed training FLOPs that the trials took from other runs."""
        return sum(item.shared_flops for item in self.budgets)

    @property
    def at_edge(self) -> dict[str, list[float]]:
        """Keys whose optimum lies on an edge, with the budgets at which it does."""
        found: dict[str, list[float]] = {}
        for item in self.budgets:
            for key in item.at_edge:
                found.setdefault(key, []).append(item.budget)
        return found


class TunedData(Spec):
    """The text on which an entry was tuned."""

    fingerprint: str = Field(description="Fingerprint of the corpus' content.")
    tokenizer: dict[str, Any] = Field(description="The tokenizer's settings.")
    sequence_length: PositiveInt = Field(description="Tokens of a sequence.")


class TunedMetric(Spec):
    """What the trials were compared by."""

    name: str = Field(description="Name of the metric.")
    direction: Literal["minimize", "maximize"] = Field(description="Which way is better.")
    split: str = Field(description="The part of the corpus on which it was measured.")


class TuningRecord(Spec):
    """Settings that a tuning sweep found, with its effort, ranges, data and a digest."""

    sweep: str = Field(description="Name of the sweep.")
    sweep_hash: str = Field(description="SHA-256 of the sweep's specification.")
    metric: TunedMetric = Field(description="What the trials were compared by.")
    seeds: list[int] = Field(min_length=1, description="Seeds of each trial.")
    compute: str = Field(description="The count of a budget's FLOPs, as `matching.compute`.")
    parameters: str = Field(description="The count of sizes, as `matching.parameters`.")
    data: TunedData = Field(description="The text on which it was tuned.")
    families: dict[str, EntryTuning] = Field(
        min_length=1, description="What was found, by entry of the study's families."
    )
    digest: str = Field(
        default="", description="SHA-256 of all the rest: a file of another one was edited."
    )

    def computed_digest(self) -> str:
        """SHA-256 (hex) of everything but the digest."""
        content = self.model_dump(mode="json", exclude={"digest"})
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    def signed(self) -> TuningRecord:
        """The record with its digest."""
        return self.model_copy(update={"digest": self.computed_digest()})

    @property
    def is_edited(self) -> bool:
        """Whether it is not as the sweep wrote it."""
        return self.digest != self.computed_digest()

    def equal_trials(self, entries: list[str]) -> bool:
        """Whether all these entries were tuned, with equally many trials that were drawn."""
        drawn = {self.families[name].drawn if name in self.families else None for name in entries}
        return len(drawn) == 1 and None not in drawn
