"""Specifications: what a study is, down to one resolved run. Standard library and pydantic only."""

from cola.spec.base import (
    Spec,
    apply_overrides,
    canonical_json,
    check_path,
    load_yaml,
    with_values,
)
from cola.spec.data import DataSpec
from cola.spec.model import (
    ARModelSpec,
    ColaModelSpec,
    DiTSpec,
    LLaDAModelSpec,
    ModelSpec,
    TextVAESpec,
    TransformerSpec,
)
from cola.spec.objective import (
    ColaObjective,
    GenerationSpec,
    LikelihoodSpec,
    MaskedDiffusion,
    NextToken,
    Objective,
)
from cola.spec.run import EvaluationSpec, RunSpec, StagePlan, TrainingSpec
from cola.spec.study import StudySpec

__all__ = [
    "ARModelSpec",
    "ColaModelSpec",
    "ColaObjective",
    "DataSpec",
    "DiTSpec",
    "EvaluationSpec",
    "GenerationSpec",
    "LLaDAModelSpec",
    "LikelihoodSpec",
    "MaskedDiffusion",
    "ModelSpec",
    "NextToken",
    "Objective",
    "RunSpec",
    "Spec",
    "StagePlan",
    "StudySpec",
    "TextVAESpec",
    "TrainingSpec",
    "TransformerSpec",
    "apply_overrides",
    "canonical_json",
    "check_path",
    "load_yaml",
    "with_values",
]
