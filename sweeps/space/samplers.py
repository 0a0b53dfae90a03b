"""What each algorithm and scheduler makes of the keys of a space: modelled, drawn at random, kept.

Optuna draws at random, without a message, what a sampler cannot model; a sweep names such keys, or
refuses a space of which nothing is left to model.
"""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.space.domains import Choice, Space

LEARNING_RATE = "training.optimizer.learning_rate"
# Keys that only set how a finished model is used: points that differ in them share a training.
INFERENCE_KEYS = ("evaluation.generation.", "evaluation.likelihood.", "evaluation.prompt_tokens")
# Samplers that draw all keys of a point together: a key that only some points have is none of them.
JOINT_SAMPLERS = ("gp", "cma-es", "nsga2")


def is_inference(key: str) -> bool:
    """Whether a key only sets how a finished model is used."""
    return key.startswith(INFERENCE_KEYS)


def drawn_at_random(kind: str, space: Space) -> dict[str, str]:
    """Keys that the algorithm of this kind does not model, with the reason.

    Of `grid` and `random`, which model nothing, none is named.
    """
    reasons = {}
    for key, domain in space.items():
        if kind == "cma-es" and isinstance(domain, Choice):
            reasons[key] = "a choice"
        elif kind in JOINT_SAMPLERS and domain.when is not None:
            reasons[key] = "part of some points only"
    return reasons


def check_sampler(kind: str, space: Space) -> None:
    """Refuse a space of which the algorithm models no key.

    Raises:
        ValueError: it draws every key at random.
    """
    reasons = drawn_at_random(kind, space)
    if reasons and len(reasons) == len(space):
        listed = ", ".join(f"{key} ({reason})" for key, reason in reasons.items())
        raise ValueError(
            f"algorithm.kind={kind!r} models none of the space's keys and would draw all of them "
            f"at random: {listed}; use 'tpe', or 'random' to say so"
        )


def check_population_keys(space: Space) -> None:
    """Refuse keys that no member of a population trains with.

    Raises:
        ValueError: a key only sets how finished models are used.
    """
    for key in filter(is_inference, space):
        raise ValueError(
            f"space.{key}: trains nothing, so members of a population that differ in it are the "
            "same run; leave it out, or use another scheduler"
        )


def search_notes(
    kind: str, space: Space, *, startup_trials: int, trials: int | None, is_population: bool
) -> Iterator[str]:
    """What the search does not do with the space's keys, a sentence each."""
    reasons = drawn_at_random(kind, space)
    if reasons:
        listed = ", ".join(f"{key} ({reason})" for key, reason in reasons.items())
        modelled = ", ".join(key for key in space if key not in reasons)
        yield f"{kind} models {modelled} alone; drawn at random: {listed}. tpe models every key."
    models = kind not in ("grid", "random")
    if models and not is_population and trials is not None and trials <= startup_trials:
        yield (
            f"All {trials} trials are drawn at random: {kind} models results after "
            f"algorithm.startup_trials={startup_trials} of them. Lower it, or give more trials."
        )
    if is_population:
        others = [key for key in space if key != LEARNING_RATE]
        if others:
            yield (
                "pbt changes the learning rate alone; a member keeps what it has of "
                f"{', '.join(others)}."
            )
        if LEARNING_RATE not in space:
            yield (
                f"pbt changes the study's own learning rate, without bounds: the space has no "
                f"{LEARNING_RATE}."
            )
