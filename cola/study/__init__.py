"""Specifications that hold families: a study, and one resolved run of it."""

from cola.spec.training import TrainingSpec
from cola.study.run import EvaluationSpec, RunSpec, StagePlan
from cola.study.study import StudySpec

__all__ = ["EvaluationSpec", "RunSpec", "StagePlan", "StudySpec", "TrainingSpec"]
