"""How far a sweep is, by its log: states of trials in words, the best ones, what is to come."""

from __future__ import annotations

from collections import Counter

from cola.records import Metric, NllKind, TrialFinished, TrialRequested, weakest_kind
from cola.terminal_tables import NONE
from sweeps.search.trial_log import SweepLog, best_trial
from sweeps.space.checks import space_size
from sweeps.space.spec import MetricGoal, SweepSpec

PRUNED = "stopped early"


def shown_state(outcome: TrialFinished | None) -> str:
    """A trial's state in words; one without an outcome is open."""
    if outcome is None:
        return "open"
    return PRUNED if outcome.state == "stopped" else outcome.state


def ended_trials(log: SweepLog) -> dict[int, TrialFinished]:
    """Outcomes of the trials that are part of the present search, by number."""
    return {n: outcome for n, outcome in dict(log.outcomes).items() if n not in log.left_out}


def counts_of(log: SweepLog) -> Counter[str]:
    """How many trials of the present search have ended in which state."""
    return Counter(map(shown_state, ended_trials(log).values()))


def best_trials(sweep: SweepSpec, log: SweepLog) -> set[int]:
    """The best trial of each arm so far; none where several metrics are optimised."""
    if len(sweep.metrics) > 1:
        return set()
    found = (best_trial(log, arm, sweep.metrics[0]) for arm in sweep.spaces())
    return {pair[0].trial for pair in found if pair is not None}


def most_trials(sweep: SweepSpec, log: SweepLog) -> int | None:
    """Trials that there will be at most, as far as they are counted; None where a budget of another
    kind ends the search. Trials beyond the space's edges are not counted before they are there."""
    if sweep.is_population:
        population = sweep.scheduler.population
        return population.members * population.generations * len(sweep.spaces())
    total = 0
    for arm, space in sweep.spaces().items():
        limits = [sweep.trials_an_arm]
        if sweep.algorithm.kind == "grid":
            size = space_size(space)
            limits.append(None if size is None else size - sum(log.exclusions(arm).values()))
        known = [limit for limit in limits if limit is not None]
        if not known:
            return None
        total += min(known)
    beyond = sum(request.beyond for request in dict(log.requests).values())
    return total + beyond


def shown_value(outcome: TrialFinished, metric: str, kind: NllKind | None) -> str:
    """A trial's metric at its end; of a validation NLL also what it is. `kind` is what its journal
    says, for trials that were stopped, of which the log has no runs."""
    value = outcome.metrics.get(metric)
    if value is None:
        return NONE
    kinds = [run.nll_kind for run in outcome.runs if run.nll_kind is not None]
    return with_kind(value, metric, weakest_kind(kinds) if kinds else kind)


def with_kind(value: float, metric: str, kind: NllKind | None) -> str:
    """A metric's value; of a validation NLL also whether it is exact, a bound or an estimate."""
    return f"{value:.4f} ({kind})" if metric == Metric.NLL and kind is not None else f"{value:.4f}"


def seconds_left(sweep: SweepSpec, log: SweepLog, running: int) -> float | None:
    """Time until the last trial ends, if those to come take as long as those that have ended and
    `running` are trained at a time; None where no count of trials, or no time, is known."""
    most, ended = most_trials(sweep, log), list(ended_trials(log).values())
    taken = [outcome.wall_seconds for outcome in ended if outcome.flops > 0]
    if most is None or not taken or not running:
        return None
    return max(0, most - len(ended)) * sum(taken) / len(taken) / running


def score_sentence(request: TrialRequested, outcome: TrialFinished, goal: MetricGoal) -> str:
    """The value that a trial was selected by, and its test NLL, which selected nothing."""
    arm = f" of arm {request.arm}" if request.arm else ""
    chosen = f"best trial{arm}: {request.trial}, {goal.name} {outcome.metrics[goal.name]:.4f}"
    tested = outcome.metrics.get(Metric.TEST_NLL)
    if tested is None:
        return f"{chosen}; not scored on a test split, so that this number is a selected one"
    error = outcome.metrics.get(Metric.TEST_NLL_STANDARD_ERROR)
    shown = "" if error is None else f" ± {error:.4f}"
    return f"{chosen}; on the test split {tested:.4f}{shown} nats per token"
