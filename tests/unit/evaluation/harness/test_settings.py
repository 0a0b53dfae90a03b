"""What lm-evaluation-harness may ask of a model."""

from __future__ import annotations

import pytest

from cola.errors import SpecError
from cola.spec import GenerationSpec

pytest.importorskip("lm_eval")

from cola.evaluation.harness.settings import request_of


def test_what_a_request_may_say() -> None:
    base = GenerationSpec(max_new_tokens=256, steps=5)
    asked = request_of(base, {"until": "\n", "max_tokens": 3, "max_gen_toks": 7, "steps": 9})
    assert asked.until == ("\n",)
    assert asked.settings == GenerationSpec(max_new_tokens=7, steps=9)
    warm = base.model_copy(update={"temperature": 0.7})
    for keys, temperature in (
        ({"do_sample": False, "temperature": 0.9}, 0.0),
        ({"do_sample": True, "temperature": 0.9}, 0.9),
        ({"do_sample": True}, 0.7),
        ({"temperature": 0.0}, 0.0),
        ({"num_beams": 1}, 0.7),
    ):
        assert request_of(warm, keys).settings.temperature == temperature
    assert request_of(base, {"do_sample": True}).settings.temperature == 1.0
    with pytest.raises(SpecError, match="generation_kwargs num_beams=4: no such key"):
        request_of(base, {"num_beams": 4})
    with pytest.raises(SpecError, match="top_p"):
        request_of(base, {"top_p": 3})
