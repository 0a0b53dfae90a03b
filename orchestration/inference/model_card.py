"""The model card of an exported model, in the form of Hugging Face's hub."""

from __future__ import annotations

from pathlib import Path

from cola.families.interface.definition import FamilyDefinition
from cola.families.registry import definition_of, has_likelihood
from cola.records import Metric
from cola.spec.yaml_text import dump_yaml
from cola.study import RunSpec
from orchestration.planning.decisions import known_plan
from orchestration.state.last_validation import last_validation, run_nll_kind
from orchestration.state.paths import OutputFolder

CALL = """\
cola serve-model DIR --port 8000    # prints a token
curl http://127.0.0.1:8000/v1/completions -H "Authorization: Bearer $TOKEN" \\
    -d '{"prompt": "Once", "max_tokens": 16, "seed": 0}'
"""
LOAD = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIR")
model = AutoModelForCausalLM.from_pretrained("DIR").eval()
inputs = tokenizer("Once", return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=16)[0], skip_special_tokens=True))
"""


def model_card(run_folder: Path, spec: RunSpec) -> str:
    """Markdown of what the model is, how it is used and how it was trained, with the whole
    specification; its head is YAML for the hub."""
    family = definition_of(spec.family)
    names = study_names(run_folder)
    rows = {
        "family": family.label,
        "study and run": ", ".join(names) or "of no study of its output folder",
        "specification, SHA-256": run_folder.name,
        "seed": str(spec.seed),
        "budget": f"{spec.budget:.6g} FLOPs ({spec.compute})",
        "training FLOPs, executed": f"{spec.train_flops_at(spec.steps, 'executed'):.6g}",
        "training FLOPs, nominal": f"{spec.train_flops_at(spec.steps, 'nominal'):.6g}",
        "optimiser steps": str(spec.steps),
        "training tokens": str(spec.steps * spec.tokens_per_step),
        "context": f"{spec.data.sequence_length} tokens",
        "validation NLL": held_out_nll(run_folder, spec, Metric.NLL, Metric.BITS_PER_BYTE),
        "test NLL": held_out_nll(run_folder, spec, Metric.TEST_NLL, Metric.TEST_BITS_PER_BYTE),
        "licence": "unknown: none was chosen for this model, and its training texts have their own",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
{head(family)}---

# {family.label}, trained by cola-scaling

{family.opening_note}

| | |
|---|---|
{table}

*Executed* FLOPs count the matrix products that are computed, with attention's visible density;
*nominal* is the literature's 6 N D. The NLL is over fixed held-out sequences of the training
corpus, all tokens included; those of the test split select nothing. A *bound* is at least the
model's true NLL, an *estimate* may lie on either side of it.

## Use

DIR is this folder.
{examples(family)}
## Specification

```yaml
{spec.to_yaml()}```
"""


def head(family: FamilyDefinition) -> str:
    """The card's YAML for the hub, without what is not known: licence, language and data set."""
    values: dict[str, object] = {"pipeline_tag": "text-generation"}
    if family.library is not None:
        values["library_name"] = family.library
    return dump_yaml({**values, "tags": ["cola-scaling", family.name]})


def examples(family: FamilyDefinition) -> str:
    """Code that opens the folder and continues a text."""
    found = f"\n```bash\n{CALL}```\n"
    if family.library is not None:
        found += f"\n```python\n{LOAD}```\n"
    return found


def study_names(run_folder: Path) -> list[str]:
    """STUDY/RUN-NAME of each study of the run's output folder that has planned it."""
    key, root = run_folder.resolve().name, run_folder.resolve().parent.parent
    return [
        f"{folder.name}/{slot['name']}"
        for folder in sorted(OutputFolder(root).studies.glob("*"))
        for slot in known_plan(folder).values()
        if slot.get("run_key") == key
    ]


def held_out_nll(run_folder: Path, spec: RunSpec, nll_key: str, bits_key: str) -> str:
    """The last evaluation's NLL and bits per byte, with the NLL's kind and the step."""
    if not has_likelihood(spec.family, spec.model, spec.evaluation.likelihood):
        return "none: the model has no likelihood"
    last = last_validation(run_folder)
    if last is None or nll_key not in last.values:
        return "not measured"
    kind = run_nll_kind(spec, last.values)
    nll, bits = last.values[nll_key], last.values[bits_key]
    return f"{nll:.4f} nats per token ({kind}), {bits:.4f} bits per byte, after step {last.step}"
