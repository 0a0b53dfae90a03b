"""The toy family's network, likelihood and generation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cola.families.interface.family import Batch, Conditional, Family, Likelihood, StageModule
from cola.seeding import Stream
from cola.spec import GenerationSpec, LikelihoodSpec
from toy_family.spec import ToyModelSpec, ToyObjective


class ToyModel(nn.Module):
    """Logits of the next token from the last one; row `vocab_size` stands before every text."""

    def __init__(self, spec: ToyModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = nn.Embedding(spec.vocab_size + 1, spec.width)
        self.up = nn.ModuleList(
            nn.Linear(spec.width, spec.inner, bias=False) for _ in range(spec.layers)
        )
        self.down = nn.ModuleList(
            nn.Linear(spec.inner, spec.width, bias=False) for _ in range(spec.layers)
        )
        self.head = nn.Linear(spec.width, spec.vocab_size, bias=False)

    def forward(self, last: Tensor) -> Tensor:
        """Logits (..., V) of what follows the tokens `last` (...)."""
        hidden = self.embedding(last)
        for up, down in zip(self.up, self.down, strict=True):
            hidden = hidden + down(F.gelu(up(hidden)))
        return self.head(hidden)

    def token_nll(self, tokens_BL: Tensor, smoothing: float = 0.0) -> Tensor:
        """-log p of every token, (B, L)."""
        start = tokens_BL.new_full((len(tokens_BL), 1), self.spec.vocab_size)
        logits_BLV = self(torch.cat([start, tokens_BL[:, :-1]], 1)).float()
        return F.cross_entropy(
            logits_BLV.transpose(1, 2), tokens_BL, reduction="none", label_smoothing=smoothing
        )


class Counting(StageModule):
    """The only stage."""

    def __init__(self, model: ToyModel, objective: ToyObjective) -> None:
        super().__init__()
        self.model, self._smoothing = model, objective.smoothing

    def draw(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing is random."""
        return {"tokens_BL": batch.tokens_BL}

    def forward(self, tokens_BL: Tensor) -> dict[str, Tensor]:
        """See `StageModule`."""
        return {"loss": self.model.token_nll(tokens_BL, self._smoothing).mean()}


class ToyFamily(Family):
    """See `Family`."""

    name = "toy"

    def build(self, spec: ToyModelSpec) -> ToyModel:
        """See `Family.build`."""
        return ToyModel(spec)

    def stage_module(self, model: ToyModel, objective: ToyObjective, stage: str) -> StageModule:
        """See `Family.stage_module`."""
        return Counting(model, objective)

    def likelihood(
        self, model: ToyModel, tokens_BL: Tensor, settings: LikelihoodSpec, *, stream: Stream
    ) -> Likelihood:
        """See `Family.likelihood`: exact."""
        nll_BL = model.token_nll(tokens_BL).double()
        return Likelihood(nll_BL.sum(1), by_position_BL=nll_BL)

    def generation_evaluations(self, model: ToyModel, settings: GenerationSpec, prompt: int) -> int:
        """One a token."""
        return settings.max_new_tokens

    @torch.no_grad()
    def conditional_nll(
        self,
        model: ToyModel,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        settings: LikelihoodSpec,
        stream: Stream,
        eos_token_id: int | None,
    ) -> Conditional:
        """See `Family.conditional_nll`: exact, row by row."""
        device = model.head.weight.device
        nll, greedy = [], []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            read = [prompt[-1] if prompt else model.spec.vocab_size, *continuation]
            before, target = torch.tensor([read[:-1], read[1:]], dtype=torch.long, device=device)
            logits = model(before).float()
            nll.append(F.cross_entropy(logits, target, reduction="none").double().sum())
            greedy.append((logits.argmax(-1) == target).all())
        return Conditional(torch.stack(nll), "exact", torch.stack(greedy))

    @torch.no_grad()
    def diagnostics(self, model: ToyModel, tokens_BL: Tensor, stream: Stream) -> dict[str, float]:
        """See `Family.diagnostics`."""
        log_p = model(tokens_BL).log_softmax(-1)
        return {"entropy/mean": float(-(log_p.exp() * log_p).sum(-1).mean())}

    @torch.no_grad()
    def generate(
        self,
        model: ToyModel,
        prompts: list[list[int]],
        settings: GenerationSpec,
        *,
        stream: Stream,
        eos_token_id: int | None,
    ) -> list[list[int]]:
        """See `Family.generate`: greedy, or by the Gumbel trick."""
        device, size = model.head.weight.device, model.spec.vocab_size
        last_B = torch.tensor([p[-1] if p else size for p in prompts], device=device)
        made: list[list[int]] = [[] for _ in prompts]
        for step in range(settings.max_new_tokens):
            logits_BV = model(last_B).float()
            if settings.temperature > 0:
                uniform_BV = stream.uniform(f"token {step}", size).clamp_min(1e-12)
                logits_BV = logits_BV / settings.temperature - (-uniform_BV.log()).log()
            last_B = logits_BV.argmax(-1)
            for row, token in zip(made, last_B.tolist(), strict=True):
                if not row or row[-1] != eos_token_id:
                    row.append(token)
        return made

    def save(self, model: ToyModel, folder: Path) -> None:
        """See `Family.save`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "model.safetensors")
        config = {"model_type": "toy_bigram", "spec": model.spec.model_dump()}
        (folder / "config.json").write_text(json.dumps(config))

    def load(self, folder: Path) -> ToyModel:
        """See `Family.load`."""
        config = json.loads((folder / "config.json").read_text())
        model = ToyModel(ToyModelSpec.parse(config["spec"]))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model
