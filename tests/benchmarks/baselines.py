"""Both baselines against independent, plain implementations, on the same text in the same order.

    python -m tests.benchmarks.baselines CORPUS.jsonl --out FOLDER [--steps 400] [--seeds 3]

AR against Hugging Face's Trainer; LLaDA against the published training recipe written out as a
plain loop over a bidirectional Llama. Every seed trains both; one plain function of logits scores
all models on the same validation text with the same masks. Prints each loss, and the difference of
the means beside the scatter of the seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from cola.data import PreparedData, prepare, sequence_ids
from cola.families.ar.spec import NextToken
from cola.families.llada.spec import LLaDAModelSpec, MaskedDiffusion
from cola.spec import DataSpec, TransformerSpec
from cola.study import RunSpec
from orchestration.training.distributed import WorkerRank
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, train
from tests.sizes import size_model

LENGTH, BATCH, VOCABULARY, VALIDATION, CORE = 128, 16, 4096, 128, 1_000_000
RATE, WARMUP, FINAL = 2e-3, 0.05, 0.1
Logits = Callable[[Tensor], Tensor]  # token ids (B, L) -> (B, L, V)


def run_spec(family: str, data: DataSpec, steps: int, seed: int) -> RunSpec:
    """Our run: a million core parameters, the default optimiser and schedule."""
    # The published recipe does not stratify its times.
    objective = NextToken() if family == "ar" else MaskedDiffusion(stratified=False)
    stage = {
        "name": "train",
        "steps": steps,
        "train_flops_per_token_executed": 1.0,
        "train_flops_per_token_nominal": 1.0,
    }
    values = {
        "model": size_model(family, CORE, VOCABULARY).model_dump(),
        "objective": objective.model_dump(),
        "data": data.model_dump(),
        "data_fingerprint": "one corpus",
        "training": {
            "batch_sequences": BATCH,
            "precision": "float32",
            "optimizer": {"learning_rate": RATE},
            "schedule": {"warmup_fraction": WARMUP, "final_ratio": FINAL},
        },
        "evaluation": {},
        "stages": [stage],
        "budget": 1.0,
        "compute": "executed",
        "seed": seed,
    }
    return RunSpec.parse(values)


def ours(run: RunSpec, data: PreparedData) -> nn.Module:
    """The product's own loop, loss and order of data, in this process."""
    return train(
        run, data.train, TorchEngine, settings=LoopSettings(0), worker=WorkerRank(), hooks=[]
    ).model.eval()


def batches(data: PreparedData, steps: int) -> Iterator[Tensor]:
    """The sequences that our runs read, in their order, (B, L)."""
    for step in range(steps):
        ids = sequence_ids(
            DataSpec.model_fields["seed"].default, step, BATCH, num_sequences=len(data.train)
        )
        yield torch.from_numpy(data.train.rows(ids))


class InOrder(IterableDataset[dict[str, Tensor]]):
    """Sequences behind a start token, as a causal language model of Hugging Face takes them."""

    def __init__(self, data: PreparedData, steps: int) -> None:
        self._data, self._steps = data, steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in batches(self._data, self._steps):
            for row in batch:
                ids = torch.cat([torch.tensor([VOCABULARY]), row])
                yield {"input_ids": ids, "labels": ids}


def plain_config(spec: TransformerSpec) -> LlamaConfig:
    """A Llama of these sizes, by Hugging Face's defaults."""
    return LlamaConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.ffn_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        rope_theta=spec.rope_theta,
        bos_token_id=VOCABULARY,
        eos_token_id=None,
    )


def trainers(run: RunSpec, data: PreparedData, folder: Path) -> nn.Module:
    """Hugging Face's Trainer on the same sequences."""
    assert isinstance(run.model, TransformerSpec)
    torch.manual_seed(run.seed)
    model = LlamaForCausalLM(plain_config(run.model))
    optimizer = run.training.optimizer
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=run.steps,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.grad_clip or 0.0,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": FINAL},
        warmup_steps=round(WARMUP * run.steps),
        save_strategy="no",
        report_to="none",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=run.seed,
    )
    Trainer(model=model, args=arguments, train_dataset=InOrder(data, run.steps)).train()
    return model.eval()


def plain_llada(run: RunSpec, data: PreparedData, folder: Path) -> nn.Module:
    """LLaDA's published recipe: one uniform t a sequence, mask with probability
    (1 - 0.001) t + 0.001, cross entropy of the masked tokens over that probability."""
    assert isinstance(run.model, LLaDAModelSpec)
    torch.manual_seed(run.seed)
    model = LlamaForCausalLM(plain_config(run.model))
    optimizer = run.training.optimizer
    adamw = torch.optim.AdamW(
        model.parameters(), RATE, optimizer.betas, optimizer.eps, optimizer.weight_decay
    )
    warmup = round(WARMUP * run.steps)
    for step, ids in enumerate(batches(data, run.steps)):
        left = math.cos(math.pi * max(0, step - warmup) / max(1, run.steps - 1 - warmup))
        share = (step + 1) / warmup if step < warmup else FINAL + (1 - FINAL) * (1 + left) / 2
        adamw.param_groups[0]["lr"] = share * RATE
        if torch.rand(()) < 0.01:
            ids = ids[:, : int(torch.randint(1, LENGTH + 1, ()))]
        p_mask = ((1 - 1e-3) * torch.rand(len(ids)) + 1e-3)[:, None].expand_as(ids)
        masked = torch.rand(ids.shape) < p_mask
        logits = bidirectional(model)(torch.where(masked, VOCABULARY, ids))
        each = F.cross_entropy(logits[masked], ids[masked], reduction="none") / p_mask[masked]
        adamw.zero_grad()
        (each.sum() / ids.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer.grad_clip or math.inf)
        adamw.step()
    return model.eval()


def bidirectional(model: nn.Module) -> Logits:
    """Logits where everything sees everything, never of the mask token."""

    def logits(ids: Tensor) -> Tensor:
        if not isinstance(model, LlamaForCausalLM):
            return model(ids)  # type: ignore[no-any-return]
        everything = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1])
        found: Tensor = model(ids, attention_mask=everything).logits
        return found[..., :VOCABULARY]

    return logits


@torch.no_grad()
def causal_loss(model: nn.Module, tokens_BL: Tensor) -> float:
    """Mean negative log likelihood, nats per token."""
    start = torch.full((len(tokens_BL), 1), VOCABULARY)
    logits = model(torch.cat([start, tokens_BL[:, :-1]], dim=1)).logits
    return float(F.cross_entropy(logits.flatten(0, 1), tokens_BL.flatten()))


@torch.no_grad()
def masked_loss(model: nn.Module, tokens_BL: Tensor) -> float:
    """The bound at 16 fixed mask rates, nats per token."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for place in range(16):
        rate = (place + 0.5) / 16
        masked = torch.rand(tokens_BL.shape, generator=generator) < rate
        logits = bidirectional(model)(torch.where(masked, VOCABULARY, tokens_BL))
        each = F.cross_entropy(logits[masked], tokens_BL[masked], reduction="none")
        found.append(float(each.sum()) / rate / tokens_BL.numel())
    return statistics.mean(found)


def report(name: str, losses: dict[str, list[float]]) -> None:
    """Both means, their difference, and what the seeds alone would make of it."""
    for which, values in losses.items():
        shown = ", ".join(f"{value:.4f}" for value in values)
        print(f"{name} {which:<12} {shown}; mean {statistics.mean(values):.4f}", flush=True)
    one, other = losses.values()
    difference = statistics.mean(one) - statistics.mean(other)
    # The seeds are not paired: an independent implementation draws other numbers.
    scatter = math.sqrt(
        statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    )
    print(f"{name}: difference {difference:+.4f} nats/token, standard error of seeds {scatter:.4f}")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--families", nargs="+", default=["ar", "llada"])
    arguments = parser.parse_args()
    spec = DataSpec.parse(
        {
            "corpus": {"source": "files", "paths": [str(arguments.corpus.resolve())]},
            "tokenizer": {"kind": "bpe", "vocab_size": VOCABULARY},
            "sequence_length": LENGTH,
        }
    )
    data = prepare(spec, arguments.out / "cache")
    tokens_BL = torch.from_numpy(data.validation.rows(np.arange(VALIDATION)))
    kinds: list[tuple[str, Any, Any]] = [
        ("ar", trainers, causal_loss),
        ("llada", plain_llada, masked_loss),
    ]
    chosen = [kind for kind in kinds if kind[0] in arguments.families]
    for family, independent, score in chosen:
        losses: dict[str, list[float]] = {"ours": [], "independent": []}
        for seed in range(arguments.seeds):
            run = run_spec(family, spec, arguments.steps, seed)
            losses["ours"].append(score(ours(run, data), tokens_BL))
            losses["independent"].append(score(independent(run, data, arguments.out), tokens_BL))
        report(family, losses)


if __name__ == "__main__":
    main()
