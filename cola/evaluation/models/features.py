"""Features of texts by an external model in a local Hugging Face folder, for MAUVE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cola.errors import SpecError, one_line

ROWS_AT_ONCE = 16
MOST_TOKENS = 1024  # of a text, as MAUVE reads them (2102.01454); a model may have room for fewer


class FeatureModel:
    """A model that `transformers` opens, by the name that results tell; nothing is downloaded."""

    def __init__(self, name: str, tokenizer: Any, model: Any, device: torch.device | str) -> None:
        self.name = name
        self._tokenizer, self._device = tokenizer, torch.device(device)
        self._model = model.to(self._device).eval()
        self._most = min(MOST_TOKENS, int(getattr(model.config, "max_position_embeddings", 1024)))

    @classmethod
    def open(cls, folder: Path, device: torch.device | str = "cpu") -> FeatureModel:
        """The model of a folder with its tokenizer.

        Raises:
            SpecError: it holds none that `transformers` opens without code of its own.
        """
        from transformers import AutoModel, AutoTokenizer

        check_features(folder)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise SpecError(
                f"--features {folder}: cannot be opened ({type(error).__name__}: "
                f"{one_line(error)}); give a folder of a Hugging Face model with its tokenizer"
            ) from None
        return cls(str(folder), tokenizer, model, device)

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> np.ndarray:
        """The last hidden state behind each text's last token, (N, d), as MAUVE takes it.

        Raises:
            ValueError: for a text without tokens.
        """
        rows = [self._tokenizer(text)["input_ids"][: self._most] for text in texts]
        if not all(rows):
            raise ValueError("a text without tokens has no features")
        found = [
            self._last_states(rows[start : start + ROWS_AT_ONCE])
            for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        return np.concatenate(found)

    def _last_states(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        longest = int(lengths.max())
        # Padding stands behind the text, and the mask hides it from models that look ahead.
        tokens_BL = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask_BL = torch.arange(longest, device=self._device) < lengths[:, None]
        hidden_BLC = self._model(
            input_ids=tokens_BL.to(self._device), attention_mask=mask_BL.long()
        ).last_hidden_state
        rows_B = torch.arange(len(rows), device=self._device)
        return np.asarray(hidden_BLC[rows_B, lengths - 1].float().cpu().numpy())


def check_features(folder: Path) -> None:
    """Raise a `SpecError` for a folder that holds no Hugging Face model."""
    if not (folder / "config.json").is_file():
        raise SpecError(
            f"--features {folder}: holds no config.json; give a folder of a Hugging Face model and "
            "its tokenizer, as `huggingface-cli download gpt2-large --local-dir FOLDER` writes it"
        )
