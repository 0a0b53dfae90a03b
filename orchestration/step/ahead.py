"""Inputs of the next step, prepared in a thread while a step is in work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

Prepared = TypeVar("Prepared")


class Ahead(Generic[Prepared]):
    """Calls `prepare(step)` for steps below `end` in one thread, one step ahead of `take`.

    Without an `end` (0) there is no thread. `prepare` must be a function of the step alone. The
    thread ends with the `with` block, however that is left; what it has prepared by then and nobody
    took is dropped.
    """

    def __init__(self, prepare: Callable[[int], Prepared], end: int) -> None:
        self._prepare, self._end = prepare, end
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cola-ahead")
        self._begun: tuple[int, Future[Prepared]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> Prepared:
        """What is prepared for `step`; the step after it is begun.

        Whatever `prepare` raised for this step is raised here, with its own traceback.
        """
        begun, self._begun = self._begun, None
        is_there = begun is not None and begun[0] == step
        prepared = begun[1].result() if begun is not None and is_there else self._prepare(step)
        if step + 1 < self._end:
            self._begun = (step + 1, self._pool.submit(self._prepare, step + 1))
        return prepared
