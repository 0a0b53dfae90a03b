"""One thread that has the model: it answers requests in turn, those that fit in one batch."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from cola.errors import one_line
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.sampling.predictive import NextTokens
from cola.seeding import SeededRows
from orchestration.serving.completion_request import Completions
from orchestration.serving.text_choice import TextChoice, end_of

log = logging.getLogger(__name__)

MOST_WAITING = 32  # requests that are not begun; a chosen value


class BusyError(Exception):
    """So many requests wait that no other one is taken."""


class StoppedError(Exception):
    """The server stops, or nobody waits for the answer any more."""


@dataclass(frozen=True)
class Piece:
    """A part of a choice: its text, and at its end why it ended."""

    choice: int
    text: str
    finish_reason: str | None = None
    tokens: tuple[int, ...] = ()  # of the whole choice, where it has ended
    predictions: NextTokens | None = None  # of the tokens that logprobs are asked of


@dataclass
class Job:
    """A request in work: `pieces` come until None, or an exception that ended it."""

    request: Completions
    pieces: queue.SimpleQueue[Piece | Exception | None] = field(default_factory=queue.SimpleQueue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def batch_key(self) -> object:
        """Jobs with the same key can be continued together; None: alone."""
        request = self.request
        alone = request.stream or request.suffix is not None or request.tokens == 0
        return None if alone else (request.settings, request.stops)


class Engine:
    """Takes requests from any thread and answers them in its own."""

    def __init__(self, model: EvaluatedModel, rows: int) -> None:
        """`rows`: most texts that are continued at once."""
        self._model, self._rows = model, rows
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, request: Completions) -> Job:
        """The request as a job, which is answered when its turn comes.

        Raises:
            BusyError: too many wait.
            StoppedError: the engine stops.
        """
        job = Job(request)
        with self._changed:
            if self._stopping:
                raise StoppedError
            if len(self._waiting) >= MOST_WAITING:
                raise BusyError
            self._waiting.append(job)
            self._changed.notify()
        return job

    def stop(self) -> None:
        """Answer no more, and wait until the model rests; what is in work ends with its next
        token, or with the next block of tokens."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        while self._thread.is_alive():
            self._thread.join(0.5)

    def _work(self) -> None:
        with torch.no_grad():
            while jobs := self._next_jobs():
                self._answer(jobs)

    def _next_jobs(self) -> list[Job]:
        """The job whose turn it is and those that fit in its batch; none where the engine stops."""
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if self._stopping:
                for job in self._waiting:
                    job.pieces.put(StoppedError())
                return []
            first = self._waiting.popleft()
            jobs, rows = [first], first.request.choices
            for job in list(self._waiting) if first.batch_key is not None else ():
                if job.batch_key == first.batch_key and rows < self._rows:
                    self._waiting.remove(job)
                    jobs.append(job)
                    rows += job.request.choices
            return jobs

    def _answer(self, jobs: list[Job]) -> None:
        """Put all pieces of the jobs; whatever is raised ends them, and not the engine."""
        jobs = [job for job in jobs if not job.cancelled.is_set()]
        if not jobs:
            return
        ending: Exception | None = None
        try:
            for job, piece in self._pieces(jobs):
                job.pieces.put(piece)
        except StoppedError as error:
            ending = error
        except Exception as error:
            log.exception("a request fails")
            kind = "out of memory" if isinstance(error, torch.OutOfMemoryError) else "fails"
            ending = RuntimeError(f"generation {kind}: {one_line(error)}")
        for job in jobs:
            job.pieces.put(ending)

    def _pieces(self, jobs: list[Job]) -> Iterator[tuple[Job, Piece]]:
        request = jobs[0].request
        if request.tokens == 0:
            return self._given_texts(jobs[0])
        if request.suffix is not None:
            return self._filled(jobs[0])
        return self._streamed(jobs[0]) if request.stream else self._batched(jobs)

    def _batched(self, jobs: list[Job]) -> Iterator[tuple[Job, Piece]]:
        """Each choice as a whole, as they end."""
        request = jobs[0].request
        owners = [(job, choice) for job in jobs for choice in range(job.request.choices)]
        rows = SeededRows(
            [job.request.seed for job, _ in owners],
            [choice for _, choice in owners],
            device=self._model.device,
        )
        decode = self._model.tokenizer.decode

        def ended(tokens: list[int]) -> bool:
            self._check_wanted(jobs)
            return bool(request.stops) and end_of(decode(tokens), request.stops) is not None

        made = self._model.family.iter_generate(
            self._model.model,
            [job.request.prompt_of(choice) for job, choice in owners],
            request.settings,
            stream=rows,
            eos_token_id=self._model.tokenizer.eos_token_id,
            rows=self._rows,
            ended=ended,
        )
        for row, tokens in made:
            job, choice = owners[row]
            text = self._text_choice(job.request)
            text.add(tokens)
            yield job, self._whole(job.request, choice, text)

    def _streamed(self, job: Job) -> Iterator[tuple[Job, Piece]]:
        """Choice after choice in the pieces in which the family makes them."""
        request = job.request
        for choice in range(request.choices):
            text = self._text_choice(request)
            pieces = self._model.family.stream(
                self._model.model,
                request.prompt_of(choice),
                request.settings,
                stream=SeededRows([request.seed], [choice], device=self._model.device),
                eos_token_id=self._model.tokenizer.eos_token_id,
            )
            for tokens in pieces:
                self._check_wanted([job])
                text.add(tokens)
                if text.finish_reason is not None:
                    break
                shown = text.take()
                if shown:
                    yield job, Piece(choice, shown)
            text.end()
            yield job, Piece(choice, text.take(), text.finish_reason, tuple(text.tokens))

    def _filled(self, job: Job) -> Iterator[tuple[Job, Piece]]:
        """Gaps of exactly `max_tokens` tokens between the prompt and the suffix."""
        request = job.request
        for choice in range(request.choices):
            self._check_wanted([job])
            (tokens,) = self._model.family.infill(
                self._model.model,
                [request.prompt_of(choice)],
                [request.tokens],
                rights=[list(request.suffix or ())],
                settings=request.settings,
                stream=SeededRows([request.seed], [choice], device=self._model.device),
            )
            text = self._text_choice(request)
            text.add(tokens)
            yield job, Piece(choice, text.text, text.finish_reason, tuple(text.tokens))

    def _given_texts(self, job: Job) -> Iterator[tuple[Job, Piece]]:
        """Of requests for no new token: an end of each prompt, with its predictions."""
        for choice in range(job.request.choices):
            self._check_wanted([job])
            predictions = self._predictions(job.request, choice, ())
            yield job, Piece(choice, "", "length", (), predictions)

    def _whole(self, request: Completions, choice: int, text: TextChoice) -> Piece:
        tokens = tuple(text.tokens)
        predictions = self._predictions(request, choice, tokens)
        return Piece(choice, text.text, text.finish_reason or "stop", tokens, predictions)

    def _predictions(
        self, request: Completions, choice: int, tokens: Sequence[int]
    ) -> NextTokens | None:
        """The model's predictions of the new tokens, with `echo` of the prompt's too."""
        prompt = request.prompt_of(choice)
        before = [] if request.echo else prompt
        scored = [*prompt, *tokens] if request.echo else list(tokens)
        if request.logprobs is None or not scored:
            return None
        rows = [torch.tensor([row], dtype=torch.long, device=self._model.device)
                for row in (before, scored)]  # fmt: skip
        return self._model.family.next_tokens(self._model.model, *rows)

    def _text_choice(self, request: Completions) -> TextChoice:
        tokenizer = self._model.tokenizer
        return TextChoice(
            tokenizer.decode, request.stops, most=request.tokens, eos=tokenizer.eos_token_id
        )

    def _check_wanted(self, jobs: Sequence[Job]) -> None:
        """Raise a StoppedError where the engine stops or nobody waits for any of the jobs."""
        if self._stopping or all(job.cancelled.is_set() for job in jobs):
            raise StoppedError


def gives_logprobs(model: EvaluatedModel) -> bool:
    """Whether the family predicts tokens from those before them alone."""
    one: Any = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    with torch.no_grad():
        return model.family.next_tokens(model.model, one, one) is not None
