"""Parts of specifications that no family decides. Standard library and pydantic only."""

from cola.spec.base import (
    Spec,
    apply_overrides,
    canonical_json,
    load_saved_yaml,
    load_yaml,
    with_values,
)
from cola.spec.data import DataSpec
from cola.spec.inference import GenerationSpec, LikelihoodSpec, PredictiveSpec
from cola.spec.key_paths import check_path
from cola.spec.networks import DiTSpec, TextVAESpec, TransformerSpec

__all__ = [
    "DataSpec",
    "DiTSpec",
    "GenerationSpec",
    "LikelihoodSpec",
    "PredictiveSpec",
    "Spec",
    "TextVAESpec",
    "TransformerSpec",
    "apply_overrides",
    "canonical_json",
    "check_path",
    "load_saved_yaml",
    "load_yaml",
    "with_values",
]
