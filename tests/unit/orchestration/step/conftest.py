"""One short run of each family, as tests of the training loop have it."""

from tests.unit.orchestration.training.conftest import runs

__all__ = ["runs"]
