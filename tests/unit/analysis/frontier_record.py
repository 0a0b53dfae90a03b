"""A made-up `frontier.json` of two families."""

from __future__ import annotations

from typing import Any

SENTENCE = "At the text's own entropy (2.500 nats), NLL by the reference: AR 2.4; the data decide."


def point(changed: dict[str, Any], entropy: float, nats: float, *, flops: float) -> dict[str, Any]:
    metrics = {
        "entropy": entropy, "entropy_standard_error": 0.02,
        "reference_nats_per_token": nats, "reference_nats_per_token_standard_error": 0.05,
        "brier_1": 0.3, "first_token_accuracy": 0.4, "distinct_2": 0.5,
    }  # fmt: skip
    return {"changed": changed, "metrics": metrics, "flops_per_token": flops, "by_run": []}


def curve(variant: str, label: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    by_batch = {
        str(batch): {
            "seconds": 0.5, "tokens_per_second": 100.0 * batch, "first_tokens": 1,
            "first_tokens_seconds": 0.01, "peak_bytes": None, "device": "cpu", "threads": 2,
        }
        for batch in (1, 4)
    }  # fmt: skip
    return {
        "variant": variant, "label": label, "points": points, "speed": {"by_batch": by_batch},
        "run_keys": [f"key of {variant}"],
        "edges": [[i, i + 1] for i in range(len(points) - 1)],
    }  # fmt: skip


def made_up_frontier() -> dict[str, Any]:
    """AR at three temperatures, of which the coldest is beaten by another, LLaDA at two costs."""
    ar = [
        point({}, 2.6, 2.6, flops=1e6),
        point({"temperature": 0.5}, 2.0, 2.0, flops=1e6),
        point({"temperature": 0.0}, 1.5, 2.1, flops=1e6),
    ]
    llada = [
        point({}, 2.7, 3.1, flops=4e7),
        point({"tokens_per_pass": 4}, 2.5, 3.4, flops=1e7),
    ]
    quality = {"name": "reference_nats_per_token", "label": "NLL by the reference"}
    return {
        "version": 1,
        "made": "2026-01-01 00:00:00 UTC",
        "command": "cola frontier full",
        "held_out": {"entropy": 2.5, "reference_nats_per_token": 2.4},
        "qualities": [
            quality | {"better": "lower"},
            {"name": "brierlm", "label": "BrierLM", "better": "higher"},
            {"name": "brier_1", "label": "Brier-1", "better": "higher"},
        ],
        "curves": [curve("ar", "AR", ar), curve("llada", "LLaDA", llada)],
        "comparisons": [{"sentence": SENTENCE}],
        "notes": ["Texts of 16 tokens."],
    }
