"""A study scaled down so that this machine runs every step of it in a few minutes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from cola.data.tokenizer import vocab_size_of
from cola.families.registry import definition_of
from cola.records import IN_DOMAIN_TASKS
from cola.spec.data import GeneratedPairs
from cola.study import StudySpec
from cola.study.chosen_sizes import buildable
from cola.study.designs import TrajectoryDesign

# Chosen, so that a shipped study is rehearsed in minutes on two cores.
CORES = (100_000, 150_000)  # parameters of the smallest and the largest rung
STEPS = 30
LENGTH = 64  # tokens of a sequence, or the next multiple that all families can divide
VOCABULARY = 512
PAIRS = 2000  # of text and image

ONE_MACHINE: dict[str, Any] = {
    "min_workers": None,
    "larger": [],
    "labels": {},
    "cpus_per_worker": 1,
    "gpus_per_worker": 0,
    "accelerator": None,
    "micro_batch_sequences": 2,
    "compile": False,
    "activation_checkpointing": "auto",
    "concurrent_runs": None,
}


def rehearsal_of(study: StudySpec) -> StudySpec:
    """The study with a tiny corpus, sizes, budgets and worker counts that fit this machine.

    Families, objectives, optimiser, precision and ZeRO stage stay. The smallest and the largest
    rung and the first seed are kept. Results go to `<output>/rehearsals`, so the real study's files
    are not touched.
    """
    workers = min(study.resources.workers, 2, os.cpu_count() or 1)
    length = sequence_length(study)
    values: dict[str, Any] = study.model_dump(
        mode="json", exclude={"design", "rules", "tuning", "output_mirror"}
    )
    values |= {
        "name": f"{study.name[:50]}-rehearsal",
        "output": str(Path(study.output) / "rehearsals"),
        "seeds": study.seeds[:1],
        "data": small_corpus(study) | {"sequence_length": length},
    }
    values["training"]["batch_sequences"] = 4 * workers
    for settings in values["families"].values():
        settings["rules"] = None  # of budgets and sizes that are not these
        settings.pop("budget_factor", None)
        settings.pop("ladder", None)
    shrink_evaluation(values["evaluation"], length)
    values["resources"] |= ONE_MACHINE | {"workers": workers}
    values["checkpoint"] |= {"every_seconds": 2, "keep": 2}
    values["tracking"] |= {"uri": None, "log_every_steps": 5, "also": ()}
    values["matching"] |= {"stage1": "charged", "parameters": "core", "flops": None}
    values["matching"] |= {"compute": study.matching.convention}
    # Sizes depend on the vocabulary, budgets on the sizes: a ladder without limits is parsed first.
    values["ladder"] = [{"budget": 1e30, "core_parameters": core} for core in rung_sizes(study)]
    small = StudySpec.parse(values)
    for rung in values["ladder"]:
        rung["core_parameters"] = buildable(small, rung["core_parameters"])
        rung["budget"] = budget_of(small, rung["core_parameters"])
    if isinstance(study.design, TrajectoryDesign):
        first = values["ladder"][0]
        values["design"] = {
            "kind": "trajectory",
            "core_parameters": first["core_parameters"],
            "budgets": [first["budget"], 1.5 * first["budget"]],
        }
        values["ladder"] = []
        values["matching"]["stage1"] = study.matching.stage1
    return StudySpec.parse(values)


def small_corpus(study: StudySpec) -> dict[str, Any]:
    """Corpus and tokenizer of a rehearsal: every machine's text, or the study's own where it has
    images, fewer of them if they are generated."""
    if study.data.image_shape is not None:
        corpus = study.data.corpus
        if isinstance(corpus, GeneratedPairs):
            corpus = corpus.model_copy(update={"documents": PAIRS})
        return study.data.model_copy(update={"corpus": corpus}).model_dump(mode="json")
    return {
        "corpus": {"source": "python-stdlib"},
        "tokenizer": {"kind": "bpe", "vocab_size": VOCABULARY},
    }


def sequence_length(study: StudySpec) -> int:
    """About `LENGTH` tokens, a multiple of what each family divides sequences by (at least 8)."""
    multiples = [definition_of(s.family).sequence_multiple(s)[0] for s in study.families.values()]
    unit = math.lcm(*multiples) if max(multiples) > 1 else 8
    return max(LENGTH // unit, 4) * unit


def shrink_evaluation(evaluation: dict[str, Any], length: int) -> None:
    """Change evaluation settings to a few sequences, items and solver steps.

    Tasks that need other data than the corpus are left out.
    """
    prompt = length // 2
    evaluation |= {
        "validation_sequences": 8,
        "points": 2,
        "samples": 1,
        "prompt_tokens": prompt,
        "diagnostic_sequences": 8,
        "tasks": [name for name in evaluation["tasks"] if name in IN_DOMAIN_TASKS],
        "task_items": 8,
        "gap_tokens": 4,
    }
    drawn = evaluation.get("predictive", {})
    evaluation["predictive"] = drawn | {"prompts": None, "draws": 2, "tokens": 4}
    evaluation["generation"] |= {"max_new_tokens": length - prompt, "steps": 4}
    evaluation["likelihood"] |= {"mask_samples": 2, "ode_steps": 2}


def rung_sizes(study: StudySpec) -> tuple[int, ...]:
    """Core parameters of the rungs: one for a study of one rung, two for any other."""
    return CORES[: max(len(study.rungs_of(variant)) for variant in study.families)]


def budget_of(study: StudySpec, core: int) -> float:
    """FLOPs of `STEPS` steps of the most expensive family, at least a tenth of them a stage."""
    costs = []
    batch = max(study.training_of(variant).batch_sequences for variant in study.families)
    for settings in study.families.values():
        family = definition_of(settings.family)
        model = family.size(core, vocab_size_of(study.data), settings)
        length, convention = study.data.sequence_length, study.matching.convention
        for stage, share in settings.objective.stage_shares().items():
            flops = family.train_flops_per_token(
                model, settings.objective, length, stage=stage, convention=convention
            )
            costs.append(flops.total * max(1.0, 0.1 / share))
    return STEPS * batch * study.data.sequence_length * max(costs)
