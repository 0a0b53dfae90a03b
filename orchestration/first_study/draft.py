"""A first study: budgets and sizes that a machine trains in the minutes that one has (torch-free).

Families and settings are those of `templates/first_study.yaml`; sizes at a budget those of the
shipped studies. Whatever is written has been planned.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from string import Template

from cola.data.summary import CorpusSummary, summarise
from cola.errors import SpecError
from cola.spec.yaml_text import parse_yaml
from cola.study import StudySpec
from cola.study.chosen_sizes import buildable
from orchestration.planning.accelerators import worker_flops
from orchestration.planning.catalog import shipped_studies
from orchestration.planning.corpus_size import BYTES_PER_TOKEN
from orchestration.planning.costs import run_costs, warm_starts
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.planning.plan_summary import FEW_STEPS

# Core parameters at budgets in FLOPs: of the shipped studies demo and paper-ladder.
SIZES = ((3e11, 150_000.0), (4e12, 480_000.0), (1e18, 4.1e7), (2e21, 1.9e9))
SPREAD = (1 / 13.3, 1 / 5.7, 1 / 2.35, 1.0)  # budgets as shares of the largest; the demo's
LEAST_BUDGET = 1e10  # of the largest rung; where the search begins
HALVINGS = 8  # of a search on a logarithmic scale: a thousandfold range to 3%
STEPS = 500  # that the smallest run is to have, where its batch can be larger than the least
LEAST_BATCH, MOST_BATCH = 8, 1024  # sequences; chosen values
LARGE_TEXT = 50_000_000  # bytes from which a larger vocabulary pays; a chosen value
FULL = 0.7  # share of the minutes below which the texts are what ends a study; a chosen value
SHARE_OF_EPOCHS = 0.9  # the estimate of tokens may be off; a chosen value
FINGERPRINT = "0" * 64  # of texts that are not hashed for a draft


@dataclass(frozen=True)
class Machine:
    """Cores and GPUs that runs may take."""

    cores: int
    gpus: int

    @property
    def slots(self) -> int:
        """Runs that train side by side: one on each GPU, else on each core."""
        return self.gpus or self.cores

    def __str__(self) -> str:
        cores = f"{self.cores} CPU core{'s' if self.cores > 1 else ''}"
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} and {cores}" if self.gpus else cores


@dataclass(frozen=True)
class Draft:
    """A study's file as text, what it plans, and how long that takes, in seconds of wall time."""

    text: str
    runs: list[PlannedRun]
    seconds: float
    corpus: CorpusSummary
    notes: list[str]


def this_machine() -> Machine:
    """Cores that this process may use, and the machine's NVIDIA GPUs."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        gpus = sum(1 for name in chosen.split(",") if name.strip() not in ("", "-1"))
    else:
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return Machine(len(os.sched_getaffinity(0)), gpus)


def study_name(folder: Path) -> str:
    """A study's name for a folder or file: its own, without what names of studies may not have, and
    other than those of shipped studies."""
    place = folder.resolve()
    own = place.stem if place.is_file() else place.name
    name = re.sub(r"[^a-z0-9._-]+", "-", own.lower()).strip("-._")
    name = name[:64] or "texts"
    return f"{name}-texts" if name in shipped_studies() else name


def commands(file: str, name: str) -> dict[str, str]:
    """What is typed next for a study, by verb."""
    quoted = shlex.quote(file)
    return {
        "plan": f"cola plan {quoted}",
        "run": f"cola run {quoted}",
        "report": f"cola report {name}",
    }


def drafted(folder: Path, minutes: float, machine: Machine, *, file: str, name: str) -> Draft:
    """The study of a folder's texts whose runs take about these minutes on this machine.

    Raises:
        SpecError: the folder has no text that can be read, or not enough of it, or the minutes are
            too few.
    """
    if not 0 < minutes < math.inf:
        raise SpecError(f"--minutes {minutes:g}: must be a positive number")
    if not folder.exists():
        raise SpecError(f"{folder}: there is no such folder; name one that holds texts")
    writer = Writer(folder, minutes, machine, file=file, name=name)
    corpus = summarise(writer.without_sizes().data)
    size = corpus.text_bytes or corpus.file_bytes or 0
    writer.describe(size, corpus)
    search = Search(writer, size, machine)
    least = search.least()
    if search.seconds(least) > 60 * minutes:
        raise SpecError(
            f"--minutes {minutes:g}: the smallest study with {len(SPREAD)} budgets takes about "
            f"{math.ceil(search.seconds(least) / 60)} minutes on {machine}; give more minutes"
        )
    if not search.has_text(least):
        raise SpecError(
            f"{folder}: {size:,} bytes are about {search.tokens:,.0f} training tokens, and the "
            f"smallest study reads {search.most_tokens(least):,} of them, more than "
            f"{writer.without_sizes().max_epochs:g} times over; give more text, "
            f"about {math.ceil(search.enough(least) / 1e5) / 10:g} MB"
        )
    top = search.largest(least, 60 * minutes)
    batch = search.batch(top)
    study, runs = search.planned(top, batch)
    seconds = search.seconds(top, batch)
    notes = []
    if seconds < FULL * 60 * minutes:
        notes.append(
            f"the texts are enough for about {seconds / 60:.0f} of the {minutes:g} minutes: a "
            f"larger run would read them more than {study.max_epochs:g} times"
        )
    if machine.gpus:
        notes.append("times are for H100s; set resources.accelerator to what the machine has")
    return Draft(writer.text(top, batch), runs, seconds, corpus, notes)


class Writer:
    """Fills the template in."""

    def __init__(
        self, folder: Path, minutes: float, machine: Machine, *, file: str, name: str
    ) -> None:
        self.template = Template(
            (resources.files("orchestration") / "templates" / "first_study.yaml").read_text()
        )
        self.length = 512 if machine.gpus else 128
        cpus = max(1, machine.cores // machine.gpus) if machine.gpus else 1
        self._values: dict[str, object] = {
            **_aligned(commands(file, name)),
            "folder": _on_one_line(str(folder)),
            "description": _quoted(f"A first study of the texts in {folder.resolve().name}."),
            "name": name, "minutes": f"{minutes:g}",
            "devices": str(machine), "budgets": len(SPREAD),
            "path": _quoted(str(folder)), "length": self.length,
            "prompt": self.length // 2, "cpus": cpus, "gpus": 1 if machine.gpus else 0,
            "precision": "bfloat16" if machine.gpus else "float32",
        }  # fmt: skip
        self.describe(0, CorpusSummary())
        self._sizes: dict[float, int] = {}

    def describe(self, size: int, corpus: CorpusSummary) -> None:
        """Take in what the texts are."""
        files = "" if corpus.files is None else f" in {corpus.files:,} files"
        self._values["text"] = f"{size:,} bytes{files}"
        self._values["vocabulary"] = 8192 if size >= LARGE_TEXT else 2048

    def text(self, top: float, batch: int) -> str:
        """The study's file, with these budgets."""
        budgets = [float(f"{top * share:.2g}") for share in SPREAD]
        return self._filled([(budget, self.size(budget)) for budget in budgets], batch)

    def study(self, top: float, batch: int) -> StudySpec:
        """The study that the file holds."""
        return StudySpec.parse(parse_yaml(self.text(top, batch)), origin="cola init")

    def without_sizes(self) -> StudySpec:
        """A study of the same families and texts, for what does not depend on its rungs."""
        text = self._filled([(LEAST_BUDGET, 1000)], LEAST_BATCH)
        return StudySpec.parse(parse_yaml(text), origin="cola init")

    def size(self, budget: float) -> int:
        """Core parameters at a budget that every family can have."""
        if budget not in self._sizes:
            found = _interpolated(budget)
            rounded = int(round(found, 1 - int(math.log10(found))))  # two digits
            self._sizes[budget] = buildable(self.without_sizes(), rounded)
        return self._sizes[budget]

    def _filled(self, rungs: list[tuple[float, int]], batch: int) -> str:
        ladder = "\n".join(
            f"  - {{budget: {budget:.1e}, core_parameters: {core:_}}}" for budget, core in rungs
        )
        return self.template.substitute(
            self._values, ladder=ladder, batch=batch, half_batch=batch // 2
        )


def _aligned(texts: dict[str, str]) -> dict[str, str]:
    """Texts of one line and of one width, as comments show them."""
    lines = {key: _on_one_line(text) for key, text in texts.items()}
    width = max(map(len, lines.values()))
    return {key: line.ljust(width) for key, line in lines.items()}


def _quoted(text: str) -> str:
    """A text in the double quotes of YAML."""
    return json.dumps(text, ensure_ascii=False)


def _on_one_line(text: str) -> str:
    """A name as a comment may hold it."""
    return " ".join(text.split())


def _interpolated(budget: float) -> float:
    """Core parameters at a budget, on straight lines between `SIZES` in logarithms."""
    pairs = list(pairwise(SIZES))
    (c1, n1), (c2, n2) = next((pair for pair in pairs if budget <= pair[1][0]), pairs[-1])
    slope = math.log(n2 / n1) / math.log(c2 / c1)
    return float(n1 * (budget / c1) ** slope)


class Search:
    """Looks for the largest budget that minutes and texts allow."""

    def __init__(self, writer: Writer, size: int, machine: Machine) -> None:
        self.writer, self.slots = writer, machine.slots
        study = writer.without_sizes()
        self.tokens_per_byte = (1 - study.data.validation_fraction) / BYTES_PER_TOKEN
        self.tokens = size * self.tokens_per_byte
        self.reads = study.max_epochs * SHARE_OF_EPOCHS
        self._plans: dict[tuple[float, int], tuple[StudySpec, list[PlannedRun]]] = {}

    def planned(self, top: float, batch: int = LEAST_BATCH) -> tuple[StudySpec, list[PlannedRun]]:
        """The study with this largest budget, and its runs."""
        if (top, batch) not in self._plans:
            study = self.writer.study(top, batch)
            self._plans[top, batch] = study, plan_study(study, FINGERPRINT)
        return self._plans[top, batch]

    def seconds(self, top: float, batch: int = LEAST_BATCH) -> float:
        """Wall time of all runs, side by side as the machine has room."""
        study, runs = self.planned(top, batch)
        each = [
            run_costs(
                run.spec,
                run.resources,
                run.total_parameters,
                keep=study.checkpoint.keep,
                rates={},
                warm=warm,
            ).seconds
            for run, warm in zip(runs, warm_starts(run.resources for run in runs), strict=True)
        ]
        return max(sum(each) / self.slots, *each)

    def most_tokens(self, top: float) -> int:
        """Tokens of the run that reads most."""
        return max(run.tokens for run in self.planned(top)[1])

    def has_text(self, top: float) -> bool:
        """Whether the texts are enough for the run that reads most."""
        return self.most_tokens(top) <= self.tokens * self.reads

    def enough(self, top: float) -> float:
        """Bytes of text that are enough for the run that reads most."""
        return self.most_tokens(top) / self.reads / self.tokens_per_byte

    def steps(self, top: float) -> int:
        """Steps of the shortest stage of any run; 0 where a budget is below one step."""
        try:
            runs = self.planned(top)[1]
        except SpecError:
            return 0
        return min(stage.steps for run in runs for stage in run.spec.stages)

    def least(self) -> float:
        """The smallest largest budget at which every stage has steps enough to say something."""
        low, high = LEAST_BUDGET, 1e13
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.steps(middle) >= FEW_STEPS else (middle, high)
        return high

    def largest(self, least: float, seconds: float) -> float:
        """The largest budget that fits the time and the texts; `least` does."""
        study, _ = self.planned(least)
        # An upper end: at the device's peak, without start-up and validation, for one family.
        rate = worker_flops(study.resources, study.training.precision, 1.0) * self.slots
        low, high = least, max(least, rate * seconds / sum(SPREAD))
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            fits = self.seconds(middle) <= seconds and self.has_text(middle)
            low, high = (middle, high) if fits else (low, middle)
        return low

    def batch(self, top: float) -> int:
        """Sequences a step with which the smallest run still has `STEPS` steps."""
        tokens = min(run.tokens for run in self.planned(top)[1])
        most = tokens / (STEPS * self.writer.length)
        return min(MOST_BATCH, max(LEAST_BATCH, 2 ** int(math.log2(max(1.0, most)))))
