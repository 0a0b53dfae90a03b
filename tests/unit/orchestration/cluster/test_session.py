"""Whether a run fits a cluster that does not grow, and a Ray that does not start."""

from __future__ import annotations

import pytest
import ray

from cola.errors import ClusterError
from cola.spec.resources import ResourcesSpec
from orchestration.cluster.session import ClusterResources, check_fits, ray_cluster

CLUSTER = ClusterResources(cpus=4.0, gpus=1.0, labels=({"zone": "a"},))


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"workers": 5}, r"resources\.workers=5: a run needs 5 CPUs, the cluster has 4; lower"),
        ({"workers": 2, "gpus_per_worker": 1}, "needs 2 GPUs, the cluster has 1"),
        ({"workers": 9, "min_workers": 6}, r"resources\.min_workers=6: a run needs 6 CPUs"),
        ({"labels": {"zone": "b"}}, r"resources\.labels=.*the cluster has no node with them"),
    ],
)
def test_a_run_that_can_never_start_is_refused(resources: dict[str, object], expected: str) -> None:
    with pytest.raises(ClusterError, match=expected) as caught:
        check_fits(ResourcesSpec.parse(resources), CLUSTER)
    assert caught.value.exit_code == 4


def test_an_elastic_run_needs_room_for_its_minimum_alone() -> None:
    whole, elastic = {"workers": 9}, {"workers": 9, "min_workers": 4}
    with pytest.raises(ClusterError, match=r"resources\.workers=9"):
        check_fits(ResourcesSpec.parse(whole), CLUSTER)
    check_fits(ResourcesSpec.parse(elastic), CLUSTER)


def test_a_ray_that_does_not_start_in_time_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_slow(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr(ray, "init", too_slow)
    refused = pytest.raises(ClusterError, match=r"no Ray cluster answers.*timed out during startup")
    with refused as caught, ray_cluster(None):
        pass
    assert "\n" not in str(caught.value)
