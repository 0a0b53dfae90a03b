"""Answers in the JSON form of OpenAI's completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cola.data import TextTokenizer
from cola.sampling.predictive import NextTokens
from orchestration.serving.completion_request import Completions, RequestError, ServedModel
from orchestration.serving.engine import Piece


def error_body(message: str, *, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(error: RequestError) -> dict[str, Any]:
    """The answer to a request that is refused."""
    return error_body(str(error), kind="invalid_request_error", param=error.param, code=error.code)


@dataclass
class Answer:
    """One request's answer; `prompts` are the texts that `echo` repeats."""

    request: Completions
    model: ServedModel
    tokenizer: TextTokenizer
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    new_tokens: int = 0
    _begun: set[int] = field(default_factory=set)

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The answer in one object, from a piece a choice."""
        choices = [self._choice(piece) for piece in sorted(pieces, key=lambda each: each.choice)]
        self.new_tokens = sum(len(piece.tokens) for piece in pieces)
        return {**self._head(choices), "usage": self.usage()}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One piece of a streamed answer."""
        self.new_tokens += len(piece.tokens)
        return self._head([self._choice(piece)])

    def usage_chunk(self) -> dict[str, Any]:
        """The last object of a streamed answer that says how many tokens it had."""
        return {**self._head([]), "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        """Tokens that were read and made; a prompt that is continued several times counts once."""
        read = sum(map(len, self.request.prompts)) + len(self.request.suffix or ())
        made = self.new_tokens
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    def _head(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model.name,
            "choices": choices,
            # Beyond OpenAI's form: all that decides the text, with the seed where none was given.
            "seed": self.request.seed,
            "generation": self.model.read_settings(self.request.settings),
        }

    def _choice(self, piece: Piece) -> dict[str, Any]:
        text, offset = piece.text, 0
        if self.request.echo and piece.choice not in self._begun:
            self._begun.add(piece.choice)
            text = self.tokenizer.decode(self.request.prompt_of(piece.choice)) + text
        elif not self.request.echo:
            offset = len(self.tokenizer.decode(self.request.prompt_of(piece.choice)))
        found = None if piece.predictions is None else self._logprobs(piece, text, offset)
        return {
            "index": piece.choice,
            "text": text,
            "logprobs": found,
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, piece: Piece, text: str, offset: int) -> dict[str, Any]:
        """log p of each token of the text, in nats, by the model as it is: without temperature."""
        prompt = self.request.prompt_of(piece.choice)
        tokens = [*(prompt if self.request.echo else []), *piece.tokens]
        starts = [len(self._decoded(tokens[:count])) for count in range(len(tokens))]
        # Behind a stop there is no text, nor tokens of it.
        kept = [place for place, start in enumerate(starts)
                if start < len(text) or tokens[place] == self.tokenizer.eos_token_id]  # fmt: skip
        predictions, count = piece.predictions, self.request.logprobs or 0
        assert predictions is not None
        log_p = predictions.log_p_BN[0].tolist()
        return {
            "tokens": [self.token_text(tokens[place]) for place in kept],
            "token_logprobs": [log_p[place] for place in kept],
            "top_logprobs": [
                self._listed(predictions, place, count, own=(tokens[place], log_p[place]))
                for place in kept
            ]
            if count
            else None,
            "text_offset": [offset + starts[place] for place in kept],
        }

    def _listed(
        self, predictions: NextTokens, place: int, count: int, *, own: tuple[int, float]
    ) -> dict[str, float]:
        """The most probable tokens of a place, and the text's own one."""
        listed = predictions.listed_BNK[0, place, :count].tolist()
        log_p = predictions.listed_log_p_BNK[0, place, :count].tolist()
        pairs = [*zip(listed, log_p, strict=True), own]
        return {self.token_text(token): value for token, value in pairs}

    def _decoded(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without a character that is not whole yet."""
        return self.tokenizer.decode(tokens).rstrip("\ufffd")

    def token_text(self, token: int) -> str:
        """A token's own text; the vocabulary's entry where it is part of a character."""
        text = self.tokenizer.decode([token], skip_special_tokens=False)
        entry = self.tokenizer.backend.id_to_token(token)
        return entry if "\ufffd" in text and entry is not None else text
