"""Which items are asked: every part of a data set is among few of them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cola.evaluation.few_shot.selection import Selection

# Questions of each of MMLU's 57 subjects, in the order of its test split.
MMLU = [
    100, 135, 152, 100, 265, 144, 100, 100, 100, 173, 102, 100, 235, 114, 145, 378, 126, 100, 310,
    203, 100, 165, 198, 193, 390, 270, 238, 151, 545, 216, 204, 237, 223, 131, 121, 108, 163, 112,
    103, 234, 100, 783, 346, 895, 306, 311, 324, 282, 1534, 272, 612, 110, 245, 201, 100, 166, 171,
]  # fmt: skip
SUBJECTS = [f"subject {n}" for n, size in enumerate(MMLU) for _ in range(size)]
IDS = list(range(len(SUBJECTS)))


def counts(limit: int, strata: list[str], **options: object) -> Counter[str]:
    chosen = Selection(limit, **options).of(list(range(len(strata))), strata)  # type: ignore[arg-type]
    assert chosen == sorted(set(chosen))
    return Counter(strata[place] for place in chosen)


def test_fifty_items_of_mmlu_are_of_fifty_subjects() -> None:
    for seed in range(5):
        assert len(counts(50, SUBJECTS, seed=seed)) == 50
    assert set(counts(50, SUBJECTS, how="first")) == {"subject 0"}


def test_many_items_are_shared_out_in_proportion() -> None:
    found = counts(1000, SUBJECTS)
    assert len(found) == 57
    for number, size in enumerate(MMLU):
        assert abs(found[f"subject {number}"] - 1000 * size / len(SUBJECTS)) <= 1
    # HellaSwag's two sources, 3,243 and 6,799 records.
    sources = ["activitynet"] * 3243 + ["wikihow"] * 6799
    assert counts(1000, sources) == {"activitynet": 323, "wikihow": 677}


def test_more_items_contain_the_fewer_and_the_order_of_a_file_does_not_matter() -> None:
    few, many = (set(Selection(limit, seed=3).of(IDS, SUBJECTS)) for limit in (50, 300))
    assert few < many
    backwards = Selection(50, seed=3).of(IDS[::-1], SUBJECTS[::-1])
    assert {IDS[::-1][place] for place in backwards} == few
    assert set(Selection(50, seed=4).of(IDS, SUBJECTS)) != few


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=30),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_as_many_as_asked_for_or_all(strata: list[str | None], limit: int, seed: int) -> None:
    ids = [f"q{number}" for number in range(len(strata))]
    chosen = Selection(limit, seed=seed).of(ids, strata)
    assert len(chosen) == min(limit, len(strata))
    assert len({strata[place] for place in chosen}) == min(limit, len(set(strata)))
