"""What the latent space's settings do, measured on text: the source of the objective's defaults.

    python -m tests.benchmarks.latent_space stage1 FILE.jsonl --out FOLDER
    python -m tests.benchmarks.latent_space stage2 FILE.jsonl --out FOLDER --only joint

`stage1` trains one VAE per setting and measures it on validation text; `stage2` trains one VAE and
goes on from it in every gradient mode, with curves and samples. One process, plain torch; each
result is one JSON line in FOLDER/results.jsonl, so that settings may be run side by side.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cola.data import PreparedData, prepare
from cola.families.cola.spec import ColaModelSpec, ColaObjective
from cola.families.registry import family_of
from cola.models.cola_dlm import ColaDLM
from cola.objectives.diagnostics import (
    active_units,
    flow_matching_by_time,
    latent_smoothness,
    log_snr,
    reconstruction_accuracy,
)
from cola.objectives.vae import vae_draws, vae_terms
from cola.seeding import Stream
from cola.spec import DataSpec, GenerationSpec
from cola.study import RunSpec, StagePlan
from orchestration.checkpoint.manifest import Cursor
from orchestration.training.distributed import WorkerRank
from orchestration.training.sharded_state import fragments_file
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, TrainState, train
from tests.sizes import train_flops_per_token

LENGTH, BATCH, VOCABULARY, VALIDATION = 128, 16, 4096, 64
VAE = {
    "hidden_size": 128,
    "ffn_size": 512,
    "num_heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "vocab_size": VOCABULARY,
}
DIT = {"hidden_size": 192, "num_layers": 6, "num_heads": 3, "head_dim": 64, "rope_dim": 48}

STAGE1: dict[str, dict[str, Any]] = {
    "default": {},
    "beta=0": {"beta": 0.0},
    "beta=1e-5": {"beta": 1e-5},
    "beta=1e-3": {"beta": 1e-3},
    "beta=1e-2": {"beta": 1e-2},
    "lambda_mask=0": {"lambda_mask": 0.0},
    "lambda_mask=0.1": {"lambda_mask": 0.1},
    "lambda_mask=1": {"lambda_mask": 1.0},
    "mask_rate=0.3": {"mask_rate": 0.3},
    "mask_rate=0.5": {"mask_rate": 0.5},
    "free_bits=0.5 beta=1e-3": {"free_bits": 0.5, "beta": 1e-3},
    "dropouts=0.15": {"token_dropout": 0.15, "latent_dropout": 0.15},
}
STAGE2: dict[str, dict[str, Any]] = {
    "frozen_vae": {"gradient_mode": "frozen_vae"},
    "detach_target": {"gradient_mode": "detach_target"},
    "joint lambda_ref=0": {"gradient_mode": "joint", "lambda_ref": 0.0},
    "joint lambda_ref=0.01": {"gradient_mode": "joint", "lambda_ref": 0.01},
    "joint lambda_ref=0.1": {"gradient_mode": "joint", "lambda_ref": 0.1},
    "joint lambda_ref=1": {"gradient_mode": "joint", "lambda_ref": 1.0},
}


def run_spec(
    data: DataSpec,
    stage1: dict[str, Any],
    stage2: dict[str, Any],
    steps: dict[str, int],
    log_snr: float | None = None,
) -> RunSpec:
    """A run of that many steps a stage; every setting but those given is the default."""
    model = ColaModelSpec.parse({"vae": {**VAE, "log_snr": log_snr}, "dit": DIT})
    objective = ColaObjective.parse({"stage1": stage1, "stage2": stage2})
    plans = [
        StagePlan(
            name=name,
            steps=count,
            train_flops_per_token_executed=train_flops_per_token(
                model, objective, LENGTH, stage=name, convention="executed"
            ).total,
            train_flops_per_token_nominal=train_flops_per_token(
                model, objective, LENGTH, stage=name, convention="nominal"
            ).total,
        )
        for name, count in steps.items()
    ]
    return RunSpec.parse(
        {
            "model": model.model_dump(),
            "objective": objective.model_dump(),
            "data": data.model_dump(),
            "data_fingerprint": "measured on one corpus",
            "training": {
                "batch_sequences": BATCH,
                "precision": "float32",
                "optimizer": {"learning_rate": 2e-3},
            },
            "evaluation": {},
            "stages": [plan.model_dump() for plan in plans],
            "budget": 1.0,
            "compute": "executed",
            "seed": 66,
        }
    )


class Curve:
    """Logged values of every `every` steps."""

    def __init__(self, every: int) -> None:
        self._every, self.points = every, []

    def __call__(self, state: TrainState) -> None:
        """See `Hook`."""
        if state.step % self._every == 0:
            values = {name: round(value, 5) for name, value in state.result.values.items()}
            self.points.append({"step": state.step, **values})


def vae_measurements(model: ColaDLM, tokens_BL: torch.Tensor) -> dict[str, Any]:
    """What validation text says of a VAE."""
    stream = Stream(0, 0, range(len(tokens_BL)))
    snr = log_snr(model, tokens_BL)["overall"]
    accuracy = reconstruction_accuracy(model, tokens_BL, stream)
    smooth = latent_smoothness(model, tokens_BL, stream)
    hidden = ColaObjective().stage1.model_copy(update={"lambda_mask": 1.0})
    with torch.no_grad():
        draws = vae_draws(model.vae, hidden, tokens_BL, stream=stream)
        terms, _, _ = vae_terms(model.vae, hidden, tokens_BL, draws=draws)
    return {
        "log_snr": snr,
        "accuracy_mean": accuracy["mean"],
        "accuracy_sample": accuracy["sample"],
        "reconstruction_nll": float(terms["reconstruction"]),
        "masked_nll": float(terms["masked"]),
        "active_units": active_units(model, tokens_BL)["count"],
        **{f"accuracy_at_noise_{scale}": value for scale, value in smooth.items()},
    }


@torch.no_grad()
def continuation_accuracy(model: ColaDLM, tokens_BL: torch.Tensor, scale: float) -> dict[str, Any]:
    """Greedy continuation of the first half by one block: first token, and all, right."""
    half = tokens_BL.shape[1] // 2
    settings = GenerationSpec(max_new_tokens=16, steps=16, guidance_scale=scale)
    stream = Stream(0, 0, range(len(tokens_BL)))
    prompts = tokens_BL[:, :half].tolist()
    made = torch.tensor(
        family_of("cola").generate(model, prompts, settings, stream=stream, eos_token_id=None)
    )
    right = (made == tokens_BL[:, half : half + 16]).double()
    return {"first_token": float(right[:, 0].mean()), "all_16": float(right.mean())}


def measured_stage1(
    data: PreparedData, spec: DataSpec, stage1: dict[str, Any], steps: int, validation: torch.Tensor
) -> dict[str, Any]:
    """Train a VAE alone (the joint stage gets one step) and measure it."""
    run = run_spec(spec, stage1, {"gradient_mode": "frozen_vae"}, {"vae": steps, "joint": 1})
    curve = Curve(max(1, steps // 10))
    state = train(
        run, data.train, TorchEngine, settings=LoopSettings(0), worker=WorkerRank(), hooks=[curve]
    )
    return {"measured": vae_measurements(state.model.eval(), validation), "curve": curve.points}


def measured_stage2(
    data: PreparedData,
    spec: DataSpec,
    stage2: dict[str, Any],
    steps: dict[str, int],
    validation: torch.Tensor,
    folder: Path,
) -> dict[str, Any]:
    """Go on from the VAE in `folder` (made first if it is not there) in one gradient mode."""
    if not fragments_file(folder, 0).exists():
        pretrain(data, spec, steps, folder)
    run = run_spec(spec, {}, stage2, steps)
    curve = Curve(max(1, steps["joint"] // 20))
    cursor = Cursor(stage=0, step=steps["vae"], world_size=1, zero_stage=0, elapsed_seconds=0.0)
    state = train(
        run,
        data.train,
        TorchEngine,
        settings=LoopSettings(0),
        worker=WorkerRank(),
        hooks=[curve],
        resume=(folder, cursor),
    )
    model: ColaDLM = state.model.eval()
    stream = Stream(0, 0, range(len(validation)))
    return {
        "measured": {
            **vae_measurements(model, validation),
            "fm_by_time": flow_matching_by_time(model, validation, stream, bins=5),
            **{
                f"continuation_cfg_{scale}": continuation_accuracy(model, validation, scale)
                for scale in (1.0, 2.0, 4.0)
            },
        },
        "samples": samples(model, data, validation),
        "curve": curve.points,
    }


def pretrain(data: PreparedData, spec: DataSpec, steps: dict[str, int], folder: Path) -> None:
    """Stage 1 with the default settings, kept where stage 2 starts from."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(state: TrainState) -> None:
        if state.step == steps["vae"]:
            state.engine.save(folder)
            state.stop = "interrupted"

    run = run_spec(spec, {}, {}, steps)
    train(run, data.train, TorchEngine, settings=LoopSettings(0), worker=WorkerRank(), hooks=[keep])


@torch.no_grad()
def samples(model: ColaDLM, data: PreparedData, tokens_BL: torch.Tensor) -> list[dict[str, str]]:
    """Three greedy continuations of validation text."""
    settings = GenerationSpec(max_new_tokens=48, steps=16, guidance_scale=3.0)
    prompts = tokens_BL[:3, :64].tolist()
    stream = Stream(0, 0, range(3))
    made = family_of("cola").generate(model, prompts, settings, stream=stream, eos_token_id=None)
    decode = data.tokenizer.decode
    return [
        {"prompt": decode(prompt), "continuation": decode(text)}
        for prompt, text in zip(prompts, made, strict=True)
    ]


def main() -> None:
    """Run the named settings, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["stage1", "stage2"])
    parser.add_argument("files", nargs="+", help="text or JSON-lines files")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vae-steps", type=int, default=1000)
    parser.add_argument("--joint-steps", type=int, default=2500)
    parser.add_argument("--only", nargs="*", help="settings by name (default: all)")
    chosen = parser.parse_args()
    spec = DataSpec.parse(
        {
            "corpus": {"source": "files", "paths": chosen.files},
            "tokenizer": {"kind": "bpe", "vocab_size": VOCABULARY},
            "sequence_length": LENGTH,
        }
    )
    data = prepare(spec, chosen.out / "data")
    rows = data.validation.rows(np.arange(VALIDATION))
    validation = torch.from_numpy(rows)
    table = STAGE1 if chosen.stage == "stage1" else STAGE2
    for name in chosen.only or table:
        began = time.perf_counter()
        if chosen.stage == "stage1":
            found = measured_stage1(data, spec, table[name], chosen.vae_steps, validation)
        else:
            steps = {"vae": chosen.vae_steps, "joint": chosen.joint_steps}
            folder = chosen.out / f"vae-{chosen.vae_steps}"
            found = measured_stage2(data, spec, table[name], steps, validation, folder)
        seconds = round(time.perf_counter() - began, 1)
        line = json.dumps({"stage": chosen.stage, "setting": name, "seconds": seconds, **found})
        print(line[:900], flush=True)
        with (chosen.out / "results.jsonl").open("a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
