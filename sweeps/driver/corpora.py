"""Corpora of a sweep's studies, which may differ from point to point."""

from __future__ import annotations

import logging
from pathlib import Path

from cola.data import PreparedData, prepare
from cola.data.summary import summary_in
from cola.study import StudySpec
from orchestration.driver.preflight import check_data, held_out_texts

log = logging.getLogger(__name__)


class PreparedCorpora:
    """Prepares each corpus once, in a cache folder."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._prepared: dict[str, PreparedData] = {}

    def of(self, study: StudySpec) -> PreparedData:
        """The study's corpus.

        Raises:
            SpecError: it does not fill a batch, or has too few validation sequences.
        """
        key = study.data.canonical_json()
        if key not in self._prepared:
            self._prepared[key] = prepare(study.data, self._cache)
            log.info("corpus in %s", self._prepared[key].folder)
            for caution in summary_in(self._prepared[key].meta).cautions():
                log.warning("%s", caution)
        check_data(study, self._prepared[key])
        for note in held_out_texts(study, self._prepared[key]):
            log.warning("%s", note)
        return self._prepared[key]
