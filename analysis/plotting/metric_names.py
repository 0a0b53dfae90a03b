"""Recorded metrics in words."""

from __future__ import annotations

GROUPS = {"val": "validation", "test": "test", "train": "training", "reference": "guess"}
UNITS = {
    "_nats_per_token": "nats per token",
    "_nats_per_latent": "nats per latent",
    "_nats_per_dimension": "nats per dimension",
    "bits_per_byte": "bits per byte",
}
NAMES = {"nll": "NLL", "mfu": "MFU", "chrf": "chrF", "brierlm": "BrierLM", "": "loss"}


def metric_words(key: str) -> str:
    """A metric's name for people, without its unit: `validation NLL`, `continuation: token
    accuracy`, `cloze: accuracy`."""
    group, _, name = key.removeprefix("eval/").rpartition("/")
    for ending in UNITS:
        name = name.removesuffix(ending)
    name = NAMES.get(name, name.replace("_", " "))
    if not group:
        return name
    return f"{GROUPS[group]} {name}" if group in GROUPS else f"{group.replace('/', ', ')}: {name}"


def metric_unit(key: str) -> str:
    """The unit in a metric's name; empty where it names none."""
    return next((unit for ending, unit in UNITS.items() if key.endswith(ending)), "")


def metric_label(key: str) -> str:
    """A metric's name with its unit, for axes and heads."""
    unit = metric_unit(key)
    return f"{metric_words(key)}, {unit}" if unit else metric_words(key)
