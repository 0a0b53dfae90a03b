"""A study scaled down so far that this machine carries out every step of it in a few minutes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from cola.data.tokenizer import vocab_size_of
from cola.families.registry import definition_of
from cola.records import IN_DOMAIN_TASKS
from cola.spec.design import TrajectoryDesign
from cola.study import StudySpec

CORES = (100_000, 150_000)  # of the smallest and the largest rung
STEPS = 30
VOCABULARY = 512


def rehearsal_of(study: StudySpec) -> StudySpec:
    """The study with its families, objectives, optimiser, precision and ZeRO stage, and a corpus,
    sizes, budgets and numbers of workers that fit here.

    The smallest and the largest rung are kept, and the first seed. Results go to
    `<output>/rehearsals`, so that nothing of the real study is touched.
    """
    workers = min(study.resources.workers, 2, os.cpu_count() or 1)
    values: dict[str, Any] = study.model_dump(mode="json", exclude={"design", "rules"})
    multiples = [definition_of(s.family).sequence_multiple(s)[0] for s in study.families.values()]
    unit = math.lcm(*multiples) if max(multiples) > 1 else 8
    length = max(64 // unit, 4) * unit
    prompt = length // 2
    values |= {
        "name": f"{study.name[:50]}-rehearsal",
        "output": str(Path(study.output) / "rehearsals"),
        "seeds": study.seeds[:1],
        "data": {
            "corpus": {"source": "python-stdlib"},
            "tokenizer": {"kind": "bpe", "vocab_size": VOCABULARY},
            "sequence_length": length,
        },
    }
    values["training"]["batch_sequences"] = 4 * workers
    values["evaluation"] |= {
        "validation_sequences": 8,
        "points": 2,
        "samples": 1,
        "prompt_tokens": prompt,
        "diagnostic_sequences": 8,
        "tasks": [name for name in study.evaluation.tasks if name in IN_DOMAIN_TASKS],
        "task_items": 8,
        "gap_tokens": 4,
    }
    values["evaluation"]["generation"] |= {"max_new_tokens": length - prompt, "steps": 4}
    values["evaluation"]["likelihood"] |= {"mask_samples": 2, "ode_steps": 2}
    values["resources"] |= {
        "workers": workers,
        "min_workers": None,
        "larger": [],
        "labels": {},
        "cpus_per_worker": 1,
        "gpus_per_worker": 0,
        "accelerator": None,
        "micro_batch_sequences": 2,
        "compile": False,
        "concurrent_runs": None,
    }
    values["checkpoint"] |= {"every_seconds": 2, "keep": 2}
    values["tracking"] |= {"uri": None, "log_every_steps": 5}
    values["ladder"] = [{"budget": 1e30, "core_parameters": core} for core in rung_sizes(study)]
    values["matching"] |= {"stage1": "charged", "parameters": "core"}
    small = StudySpec.parse(values)
    for rung in values["ladder"]:
        rung["budget"] = budget_of(small, rung["core_parameters"])
    if isinstance(study.design, TrajectoryDesign):
        first = values["ladder"][0]
        budgets = [first["budget"], 1.5 * first["budget"]]
        values |= {"ladder": [], "design": first | {"kind": "trajectory", "budgets": budgets}}
        del values["design"]["budget"]
        values["matching"]["stage1"] = study.matching.stage1
    return StudySpec.parse(values)


def rung_sizes(study: StudySpec) -> tuple[int, ...]:
    """One size for a study of one rung, two for any other."""
    return CORES[: len(study.rungs())]


def budget_of(study: StudySpec, core: int) -> float:
    """Enough for STEPS steps of the most expensive family, a tenth of them in every stage."""
    costs = []
    for settings in study.families.values():
        family = definition_of(settings.family)
        model = family.size(core, vocab_size_of(study.data), settings)
        length, convention = study.data.sequence_length, study.matching.compute
        for stage, share in settings.objective.stage_shares().items():
            each = family.train_flops_per_token(
                model, settings.objective, length, stage, convention
            )
            costs.append(each.total * max(1.0, 0.1 / share))
    return STEPS * study.training.batch_sequences * study.data.sequence_length * max(costs)
