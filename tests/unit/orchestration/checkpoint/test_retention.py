"""What is kept of a run's checkpoints, over all that it could hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestration.checkpoint.retention import CheckpointSummary, RetentionPolicy, to_delete

places = st.tuples(st.integers(1, 4), st.integers(1, 30))
values = st.tuples(st.booleans(), st.none() | st.floats(0, 10), st.booleans())
checkpoints = st.dictionaries(places, values, max_size=20).map(
    lambda found: [
        CheckpointSummary(f"attempt-{attempt}/step-{step}", attempt, step, *value)
        for (attempt, step), value in found.items()
    ]
)
policies = st.builds(RetentionPolicy, st.integers(1, 4), st.booleans(), st.booleans())


def kept(
    found: list[CheckpointSummary], policy: RetentionPolicy, busy: tuple[str, ...] = ()
) -> list[CheckpointSummary]:
    deleted = to_delete(found, policy, busy)
    assert len(set(deleted)) == len(deleted)
    assert set(deleted) <= set(found)
    return [item for item in found if item not in deleted]


@given(checkpoints, policies)
def test_the_newest_whole_one_stays_and_parts_go(
    found: list[CheckpointSummary], policy: RetentionPolicy
) -> None:
    left = kept(found, policy)
    whole = [item for item in found if item.whole]
    assert all(item.whole for item in left)
    if whole:
        newest = max(whole, key=lambda item: (item.step, item.attempt))
        assert newest in left
        assert newest in kept(found, policy.sparing())


@given(checkpoints, policies)
def test_the_policy_is_a_union_of_its_parts(
    found: list[CheckpointSummary], policy: RetentionPolicy
) -> None:
    left, whole = kept(found, policy), [item for item in found if item.whole]
    by_age = sorted(whole, key=lambda item: (item.step, item.attempt))
    expected = set(by_age[-policy.last :])
    if policy.points:
        expected |= {item for item in whole if item.evaluation_point}
    rest = set(left) - expected
    scored = [item for item in whole if item.validation_nll is not None]
    if policy.best and scored:
        lowest = min(item.validation_nll for item in scored if item.validation_nll is not None)
        assert any(item.validation_nll == lowest for item in left)
        assert rest <= {item for item in scored if item.validation_nll == lowest}
        assert len(rest) <= 1
    else:
        assert not rest
    assert expected <= set(left)


@given(checkpoints, policies, st.data())
def test_busy_ones_stay_and_a_second_pass_finds_nothing(
    found: list[CheckpointSummary], policy: RetentionPolicy, data: st.DataObject
) -> None:
    busy = tuple(item.name for item in found if data.draw(st.booleans()))
    left = kept(found, policy, busy)
    assert {item.name for item in left} >= set(busy)
    assert to_delete(left, policy, busy) == []
    assert to_delete(list(reversed(found)), policy, busy) == to_delete(found, policy, busy)


def test_an_example_over_two_attempts() -> None:
    found = [
        CheckpointSummary("a1/2", 1, 2, True, 3.0, True),
        CheckpointSummary("a1/4", 1, 4, True, 2.0, True),
        CheckpointSummary("a1/5", 1, 5, True),
        CheckpointSummary("a1/6", 1, 6, False),
        CheckpointSummary("a2/6", 2, 6, True, 2.5, True),
        CheckpointSummary("a2/7", 2, 7, True),
    ]

    def names(policy: RetentionPolicy) -> list[str]:
        return [item.name for item in to_delete(found, policy)]

    assert names(RetentionPolicy(2)) == ["a1/2", "a1/4", "a1/5", "a1/6"]
    assert names(RetentionPolicy(1, best=True)) == ["a1/2", "a1/5", "a1/6", "a2/6"]
    assert names(RetentionPolicy(1, points=True)) == ["a1/5", "a1/6"]
