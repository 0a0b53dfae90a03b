"""The figures of a sweep's page, with their titles, captions and texts in place of them."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.plotting.embedding import Drawn
from analysis.sweep_report.answers import estimate_drift, mean_error, pareto_front
from analysis.sweep_report.courses import course_plot, is_population, population_plot
from analysis.sweep_report.data import (
    ArmFrame,
    Goal,
    SweepFrames,
    key_words,
    point_label,
    seeds_table,
)
from analysis.sweep_report.importance import importance, is_number
from analysis.sweep_report.plots import (
    FEW,
    distinct_labels,
    drift_plot,
    heat_map,
    importance_bars,
    parallel,
    pareto,
    quality_by_cost,
    response,
)
from cola.rate_points import LADDER
from cola.records import Metric

FEW_COLUMNS = 12  # values of a key that make columns of a heat map
CONTINUATIONS = Metric.continuation("")
COST = Metric.continuation("function_evaluations_per_token")


def asks_rate(frames: SweepFrames) -> bool:
    """Whether the sweep asks for the best rate at every budget."""
    return str(frames.spec["answer"]["kind"]) == "rate"


def figures(frames: SweepFrames) -> Iterator[Drawn]:
    """All figures, the answer's first."""
    for arm in frames.arms:
        stem = f"-{arm.name}" if arm.name else ""
        for index, goal in enumerate(frames.goals):
            if goal.name not in arm.finished or arm.finished[goal.name].notna().sum() < 2:
                continue
            suffix = stem if index == 0 else f"{stem}-{index}"
            yield from drift_figure(frames, arm, goal, suffix)
            if asks_rate(frames):  # profiles are the interaction of rates and budgets
                keys = [key for key in arm.keys if key != LADDER]
                yield from responses(arm, goal, suffix, keys=keys)
            elif not is_population(arm):  # its last members are no independent points of the space
                yield from goal_figures(frames, arm, goal, suffix=suffix)
        if not asks_rate(frames):
            yield from arm_figures(frames, arm, stem)


def titled(arm: ArmFrame, text: str) -> str:
    """A title, with the arm that it is of."""
    title = f"{text[0].upper()}{text[1:]}"
    return f"{arm.name}: {title}" if arm.name else title


def range_words(arm: ArmFrame, goal: Goal) -> str:
    """The best and the worst point, in words."""
    ranked = goal.ranked(arm.finished.dropna(subset=[goal.name]))
    best, worst = ranked.iloc[0], ranked.iloc[-1]
    return (
        f"Best {best[goal.name]:.4g} at {point_label(arm, best)}, worst {worst[goal.name]:.4g} at "
        f"{point_label(arm, worst)}."
    )


def drift_figure(frames: SweepFrames, arm: ArmFrame, goal: Goal, suffix: str) -> Iterator[Drawn]:
    """How the best value of a key moves with another, where the sweep asks that."""
    answer = frames.spec["answer"]
    if answer["kind"] != "drift" or not {answer["key"], answer["over"]} <= set(arm.keys):
        return
    key, over = answer["key"], answer["over"]
    drift = estimate_drift(arm, goal, key, over=over, log=answer["log"])
    if drift is None:
        return
    title = titled(arm, f"drift of the best {key_words(key)}, by {goal.words}")
    caption = (
        "Optimum of a parabola through the best value and its neighbours, with 95% of refits under "
        "the seeds' noise."
    )
    optima = ", ".join(f"{row.optimum:.3g} at {row.over:.3g}" for row in drift.table.itertuples())
    figure = drift_plot(drift, key, over)
    yield Drawn(f"drift{suffix}", title, figure, caption, f"{title}. Optima: {optima}.")


def responses(arm: ArmFrame, goal: Goal, suffix: str, *, keys: list[str]) -> Iterator[Drawn]:
    """A metric by each of these keys."""
    known = mean_error(seeds_table(arm, goal)) is not None
    ring = "A colour a budget." if LADDER in arm.keys else "Ring: the best point."
    caption = ring + (
        " Large dots: means over seeds, with 95% of the seeds' pooled noise; small dots: single "
        "seeds."
        if known
        else " One seed a point: how much of this is chance is not known."
    )
    done = arm.finished.dropna(subset=[goal.name])
    varied = [key for key in keys if len(distinct_labels(done[key])) > 1]
    for index, key in enumerate(varied):
        title = titled(arm, f"{goal.words} by {key_words(key)}")
        words = f"{title}. {range_words(arm, goal)}"
        yield Drawn(f"response{suffix}-{index}", title, response(arm, key, goal), caption, words)


def goal_figures(frames: SweepFrames, arm: ArmFrame, goal: Goal, *, suffix: str) -> Iterator[Drawn]:
    """Of one metric: responses, the interaction, importance; no number twice."""
    done = arm.finished.dropna(subset=[goal.name])
    counts = {key: len(distinct_labels(done[key])) for key in arm.keys}
    keys, mapped = shown_keys(frames, arm, {key: is_number(done[key]) for key in arm.keys}, counts)
    yield from responses(arm, goal, suffix, keys=keys)
    if mapped:
        title = titled(
            arm, f"{goal.words} by {key_words(arm.keys[0])} and {key_words(arm.keys[1])}"
        )
        caption = "Means over seeds; dark is worse."
        words = f"{title}. {range_words(arm, goal)}"
        yield Drawn(f"interaction{suffix}", title, heat_map(arm, goal), caption, words)
    shares = importance(arm, goal)
    if shares is not None:
        caption = "fANOVA: how much of the variance over the trials each key explains by itself."
        title = titled(arm, f"importance for {goal.words}")
        words = ", ".join(f"{key_words(key)} {share:.0%}" for key, share in shares.items())
        figure = importance_bars(shares)
        yield Drawn(f"importance{suffix}", title, figure, caption, f"{title}: {words}.")


def shown_keys(
    frames: SweepFrames, arm: ArmFrame, numeric: dict[str, bool], counts: dict[str, int]
) -> tuple[list[str], bool]:
    """The keys that a metric is drawn by, and whether as a map of the first two. Of two keys one
    figure shows all: a line for each value of one, or the map where neither is a number."""
    few = all(counts[key] <= FEW_COLUMNS for key in arm.keys[:2])
    if len(arm.keys) != 2:
        return list(arm.keys), len(arm.keys) > 2 and few
    asked = frames.spec["answer"].get("key")
    one, two = arm.keys
    drawable = [
        key for key, other in ((one, two), (two, one)) if numeric[key] and counts[other] <= FEW
    ]
    if drawable:
        return [max(drawable, key=lambda key: (key == asked, counts[key]))], False
    return ([], True) if few else (list(arm.keys), False)


def arm_figures(frames: SweepFrames, arm: ArmFrame, stem: str) -> Iterator[Drawn]:
    """Of all metrics together: the Pareto front, parallel coordinates."""
    goals, first = frames.goals, frames.goals[0]
    if is_population(arm):
        caption = (
            "Above: every part of a member's run ends in a dot, joined to where it went on from; "
            "faint: given up. Below: the rates of the last members."
        )
        title = titled(arm, "the population")
        words = f"{title}: {first.words} of {len(arm.trials)} parts of runs, and their rates."
        yield Drawn(f"population{stem}", title, population_plot(arm, first), caption, words)
    elif (arm.trials["state"] == "stopped").any():
        caption = "Crosses: ended early, at a value that does not compare with finished ones."
        title = titled(arm, f"{first.words} while trials trained")
        stopped = int((arm.trials["state"] == "stopped").sum())
        words = f"{title}: {stopped} of {len(arm.trials)} trials ended early."
        yield Drawn(f"course{stem}", title, course_plot(arm, first), caption, words)
    front = pareto_front(arm.finished, goals)
    if len(goals) > 1 and len(arm.finished) > 1 and front:
        title = titled(arm, f"{first.words} against {goals[1].words}")
        caption = "Orange: the Pareto front, where no other point is as good in all metrics and "
        caption += "better in one."
        words = f"{title}: {len(front)} of {len(arm.finished)} points on the front."
        yield Drawn(f"pareto{stem}", title, pareto(arm, goals, front), caption, words)
    yield from cost_figures(arm, goals, stem)
    enough = first.name in arm.finished and arm.finished[first.name].notna().sum() >= 3
    if len(arm.keys) >= 3 and enough and not is_population(arm):
        title = titled(arm, "all trials")
        caption = f"A line a trial; blue: the best third by {first.words}."
        words = f"{title} over {', '.join(map(key_words, arm.keys))}. {range_words(arm, first)}"
        yield Drawn(f"parallel{stem}", title, parallel(arm, first), caption, words)


def cost_figures(arm: ArmFrame, goals: list[Goal], stem: str) -> Iterator[Drawn]:
    """What generation costs, beside what it gives."""
    costs = arm.finished[COST].nunique() if COST in arm.finished else 0
    for index, goal in enumerate(goals):
        if goal.name.startswith(CONTINUATIONS) and costs > 1:
            caption = "Both passes of guidance count. Large dots: means over seeds."
            title = titled(arm, f"{goal.words} against the cost of generation")
            figure = quality_by_cost(arm, goal, COST)
            words = f"{title}. {range_words(arm, goal)}"
            yield Drawn(f"cost{stem}-{index}", title, figure, caption, words)
