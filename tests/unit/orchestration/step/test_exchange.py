"""What all workers know of a step, and when."""

from __future__ import annotations

import torch

from orchestration.step.exchange import StepExchange, StepNumbers

CPU = torch.device("cpu")


def send(exchange: StepExchange, step: int, *, stop: bool = False) -> None:
    values = {"loss": torch.tensor(step + 0.1), "fm": torch.tensor(2.0)}
    exchange.begin(step, values, torch.tensor(0.5), asked={"stop": stop, "save": False})


def steps(found: list[StepNumbers]) -> list[int]:
    return [numbers.step for numbers in found]


def test_on_a_host_the_numbers_of_a_step_are_known_after_it() -> None:
    exchange = StepExchange(1, CPU)
    send(exchange, 1)
    (found,) = exchange.known(at_once=False)
    loss = float(torch.tensor(1.1))  # as float32 has it
    assert found == StepNumbers(1, {"loss": loss, "fm": 2.0}, 0.5, frozenset())
    send(exchange, 2, stop=True)
    (found,) = exchange.known(at_once=False)
    assert (found.step, found.asked) == (2, frozenset({"stop"}))


def test_late_numbers_come_in_order_and_at_once_where_somebody_acts() -> None:
    exchange = StepExchange(1, CPU, lag=1)
    send(exchange, 1)
    assert exchange.known(at_once=False) == []
    send(exchange, 2)
    assert steps(exchange.known(at_once=False)) == [1]
    send(exchange, 3)
    assert steps(exchange.known(at_once=True)) == [2, 3]
    assert exchange.known(at_once=True) == []


def test_a_request_is_met_after_the_step_at_which_it_is_known() -> None:
    """Nothing is saved of a step whose loss nobody has seen."""
    exchange = StepExchange(1, CPU, lag=1)
    send(exchange, 1, stop=True)
    assert exchange.known(at_once=False) == []
    send(exchange, 2)
    found = exchange.known(at_once=False)
    assert steps(found) == [1, 2]
    assert [numbers.asked for numbers in found] == [frozenset({"stop"}), frozenset()]
