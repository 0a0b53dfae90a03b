"""Optima, settings and speed-ups in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What is beside the table of parameters."""
    if found["law"] == "optima":
        yield from _optima(found)
    elif found["law"] == "power":
        yield from _power(found)
    elif found["law"] == "speedup":
        yield from _speedup(found)


def _optima(found: Mapping[str, Any]) -> Iterator[str]:
    ends = ", ".join(f"{name} {value:.4f}" for name, value in found["end_points"].items())
    yield f"between the first and the last budget alone: {ends}"
    ratios = found["tokens_per_parameter"]
    yield f"tokens per parameter: {', '.join(f'{ratio:.3g}' for ratio in ratios)}"
    curve = found.get("loss_curve")
    if curve is not None:
        numbers = ", ".join(
            f"{name} {value:.5g}{_ends(curve['intervals'].get(name))}"
            for name, value in curve["parameters"].items()
        )
        yield f"loss of the optima, E + K C^-gamma: {numbers}"


def _power(found: Mapping[str, Any]) -> Iterator[str]:
    diagnostics = found["diagnostics"]
    if diagnostics["degrees_of_freedom"]:
        yield (
            f"scatter {diagnostics['scatter']:.1%}, error of rows left out one by one "
            f"{diagnostics['left_out_error']:.1%}"
        )
    rule = found["rule"]
    yield (
        f"as a rule of a study: {rule['coefficient']:.4g} (N / 1e6)^"
        f"{rule['parameters_exponent']:.4f} (C / 1e15)^{rule['budget_exponent']:.4f}"
    )
    if "rules_file" in found:
        yield f"written to {found['rules_file']}, for --set @{found['rules_file']}"


def _speedup(found: Mapping[str, Any]) -> Iterator[str]:
    freedom = found["degrees_of_freedom"]
    ends = f" with {freedom} degrees of freedom" if found["interval"] else ""
    times, word, interval = less_or_more(found["speedup"], found["interval"])
    yield (
        f"{found['change']} reaches the losses of {found['baseline']} with {times:.4g} times "
        f"{word} compute{_ends(interval)}{ends}; gamma {found['gamma']:.4g}"
    )
    for gate in found["gates"]:
        times, word, _ = less_or_more(gate["speedup"], [])
        runs = f" ({gate['runs']} runs)" if gate["runs"] > 1 else ""
        yield f"at C = {gate['compute']:.4g}: {times:.4g} times {word}{runs}"
    if "speedup_in_time" in found:
        times, word, interval = less_or_more(found["speedup_in_time"], found["interval_in_time"])
        yield (
            f"in time: {times:.4g} times {word}{_ends(interval)}, with "
            f"{found['throughput_ratio']:.4g} times the throughput ({found['throughput_unit']})"
        )
    names = {"parallel": "different slopes", "curved": "bent lines"}
    tests = ", ".join(
        f"{names[name]} {'not tested' if chance is None else f'p = {chance:.2g}'}"
        for name, chance in found["lack_of_fit"].items()
    )
    yield f"lack of fit: {tests}"


def less_or_more(
    times: float, interval: Sequence[float | None]
) -> tuple[float, str, list[float | None]]:
    """So many times "less", below 1 the inverse and "more", with the interval turned alike."""
    if not 0 < times < 1:
        return times, "less", list(interval)
    return 1 / times, "more", [1 / end if end else None for end in reversed(interval)]


def _ends(interval: Sequence[float | None] | None) -> str:
    return f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else ""
