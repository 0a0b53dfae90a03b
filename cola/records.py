"""Names of everything a run records: the only thing that analysis knows about training.

Written by `orchestration.tracking.mlflow_runs` alone, read by `analysis.report.runs` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = "1"

# Tasks of `cola evaluate`: the release's few-shot ones, two corrected, and those of held-out text.
FEW_SHOT_TASKS = (
    "lambada", "mmlu", "siqa", "squad", "story_cloze", "obqa", "race", "hellaswag",
    "siqa_context", "squad_f1",
)  # fmt: skip
FEW_SHOT_NEW_TOKENS = 32
# The noise of validation is the same in every run, so that points on a curve are comparable.
VALIDATION_SEED = 0
# Which items of a few-shot task are asked: spread over its parts by a seed, or the first ones.
TaskSelection = Literal["stratified", "first"]
# Nats a token by which an exported model's NLL may differ from the recorded one. Chosen: on a CPU
# equal weights give equal numbers, in bfloat16 too; a GPU may round by the batch. A moving average
# that was missed moved runs of the demo's size by 0.002 to 0.03.
EXPORTED_NLL_TOLERANCE = 1e-3
IN_DOMAIN_TASKS = (
    "likelihood", "cloze", "predictive", "continuation", "infilling", "unconditional", "speed",
)  # fmt: skip
SCENE_ATTRIBUTES = ("place", "colour", "kind", "size", "scene")  # of drawn images and captions
OWN_TEXT = "own"  # the study's test split, among the texts of `evaluation.held_out`

# Losses of guesses without a model, the worst first, and of the source that generated text is from.
REFERENCE_LINES = ("uniform", "unigram", "bigram", "truth")

# What a measured NLL is: the model's own, at least that, or neither; of a model without it, none.
NllKind = Literal["exact", "bound", "estimate"]
NO_LIKELIHOOD = "none"
# Nats a latent between the solutions of a flow with N and with 2 N steps, above which the NLL that
# is extrapolated from them is no bound. Chosen: 0.02 nats are 7% of compute where a factor e of it
# is worth 0.3 nats.
SOLVER_TOLERANCE = 0.02
# Measurements of a likelihood of latents, whose bound is the sum of two, in nats a token.
RATE, DISTORTION, DIFFUSION_BOUND = "rate", "distortion", "diffusion_bound"
SOLVER_DIFFERENCE = "solver_difference_nats_per_latent"
SOLVER_NLL_DIFFERENCE = "solver_difference_nats_per_token"
PRIOR_COST, GAUSSIAN_COST = "prior_nats_per_dimension", "gaussian_nats_per_dimension"
LATENT_MEAN, LATENT_SQUARE = "latent_mean", "latent_square"  # moments, each followed by /DIMENSION
ENERGY_SCORE = "energy_score"  # of samples of latents against the text's: the lower the better
EXCESS = "excess"  # of an NLL of generated text over the source's own, of the same sequences
LIKELIHOOD_MEASUREMENTS = (
    "excess_nats_per_token",
    "excess_standard_error",
    "rate_nats_per_token",
    "rate_standard_error",
    "distortion_nats_per_token",
    "distortion_standard_error",
    "diffusion_bound_nats_per_token",
    "diffusion_bound_standard_error",
    PRIOR_COST,
    GAUSSIAN_COST,
    SOLVER_DIFFERENCE,
)

# Why a hook stopped a run before its last step: its loss or gradient was not finite, its latent
# space collapsed, a person or a driver asked it to stop, or its part of a longer run was done.
StopCode = Literal["diverged", "collapsed", "requested", "segment_end"]

# The study's key that a population's changes of the learning rate are kept under.
RATE_CHANGES = "training.schedule.rate_changes"


class Kind:
    """What an MLflow run stands for. One without the tag is a training run.

    A study is the parent of its training runs, a training run the parent of its restarts: each
    start of its workers, the first included. Only training runs are read by analysis.
    """

    STUDY = "study"
    RUN = "run"
    RESTART = "restart"


class Tag:
    """Tags of an MLflow run."""

    KIND = "kind"
    PARENT = "mlflow.parentRunId"  # MLflow's own name: its pages nest runs by it
    NOTE = "mlflow.note.content"  # and by this show Markdown on top of a run's or experiment's page
    SOURCE, COMMIT = "mlflow.source.name", "mlflow.source.git.commit"  # MLflow's too: who made it
    STUDY = "study"
    FAMILY = "family"
    VARIANT = "variant"  # the study's name for the run's curve; the family's where it has one curve
    RUN_KEY = "run_key"
    RUNG = "rung"
    BUDGET = "budget"  # training FLOPs in the convention of `COMPUTE`
    BUDGET_UNIT = "budget_unit"  # what the ladder counts: steps or tokens; absent for FLOPs
    BUDGET_AMOUNT = "budget_amount"  # how many of them; absent for FLOPs
    SEED = "seed"
    STATUS = "status"
    STATUS_REASON = "status_reason"
    STOP_CODE = "stop_code"  # a `StopCode`; absent where no hook stopped the run
    SCHEMA_VERSION = "schema_version"
    NLL_KIND = "nll_kind"
    COMPUTE = "compute"  # convention of the budget's FLOPs: executed or nominal
    CORE_PARAMETERS = "core_parameters"
    EMBEDDING_PARAMETERS = "embedding_parameters"  # token embeddings and output head
    HEAD_PARAMETERS = "head_parameters"  # the output head alone; absent of earlier runs
    TOTAL_PARAMETERS = "total_parameters"
    DATA_ORDER = "data_order"  # JSON {sequences consumed: digest of their order}
    ATTEMPTS = "attempts"
    RETRY = "retry"  # how often its learning rate was lowered after the run had diverged
    WALL_SECONDS = "wall_seconds"  # of the last attempt, start-up included
    PLANNED_SECONDS = "planned_seconds"  # what the plan expected of the whole run
    RUNS = "runs"  # of a study: how many runs are in which state
    RAY_DASHBOARD = "ray_dashboard"  # of a study: address of the cluster's pages
    RESTART = "restart"  # of a restart, and all below: 1 for the first start of the workers
    ATTEMPT = "attempt"  # the driver's attempt that it belongs to
    WORKERS = "workers"
    CAUSE = "cause"  # why it ended
    SWEEP_ARM = "sweep_arm"  # of a sweep's training runs, and the next two
    SWEEP_TRIAL = "sweep_trial"
    SWEEP_POINT = "sweep_point"  # JSON {key of the study: value}


class Metric:
    """Metrics of an MLflow run; the step is the optimiser step, counted over all stages."""

    TOKENS = "tokens"
    TRAIN_FLOPS_EXECUTED = "train_flops_executed"
    TRAIN_FLOPS_NOMINAL = "train_flops_nominal"
    TRAIN_LOSS = "train/loss"
    LEARNING_RATE = "learning_rate"
    GRADIENT_NORM = "gradient_norm"
    NLL = "val/nll_nats_per_token"
    NLL_STANDARD_ERROR = "val/nll_standard_error"  # over documents
    BITS_PER_BYTE = "val/bits_per_byte"
    CLUSTERS = "val/clusters"  # documents, or what stands for them, that the sequences are of
    TEST_NLL = "test/nll_nats_per_token"  # of the finished model, on text that selects nothing
    TEST_NLL_STANDARD_ERROR = "test/nll_standard_error"
    TEST_BITS_PER_BYTE = "test/bits_per_byte"
    TEST_SEQUENCES = "test/sequences"
    EXPORTED_NLL_DIFFERENCE = "val/exported_nll_difference"  # less the recorded one, same sequences
    REFERENCE_XZ = "reference/xz_bits_per_byte"
    TOKENS_PER_SECOND = "throughput/tokens_per_second"
    MFU = "throughput/mfu"
    ELAPSED_SECONDS = "elapsed_seconds"
    JOURNAL_LINE = "journal_line"  # how many lines of the journal MLflow has
    FIRST_STEP = "restart/first_step"  # steps done before the workers started
    LAST_STEP = "restart/last_step"
    SECONDS = "restart/seconds"

    @staticmethod
    def reference(line: str) -> str:
        """What guessing without a model gives on the run's validation sequences (nats/token)."""
        return f"reference/{line}_nats_per_token"

    @staticmethod
    def on_test(key: str) -> str:
        """The same measurement of the test split: of a validation metric, or a reference line."""
        group, _, name = key.partition("/")
        return f"test/{name}" if group == "val" else f"test/{group}/{name}"

    @staticmethod
    def journal_step(kind: str) -> str:
        """The last step of a kind of journal lines that MLflow has."""
        return f"journal_step/{kind}"

    @staticmethod
    def runs(state: str) -> str:
        """How many of a study's runs are in a state."""
        return f"runs/{state}"

    @staticmethod
    def train(part: str) -> str:
        """A named part of the training loss."""
        return f"train/{part}"

    @staticmethod
    def val(part: str) -> str:
        """A named part of the validation likelihood."""
        return f"val/{part}"

    @staticmethod
    def val_nats(name: str) -> str:
        """A measurement of the validation likelihood in nats per token."""
        return Metric.val(f"{name}_nats_per_token")

    @staticmethod
    def val_error(name: str) -> str:
        """Its standard error over the validation sequences."""
        return Metric.val(f"{name}_standard_error")

    @staticmethod
    def diagnostic(name: str) -> str:
        """A measurement of the finished model beside its likelihood."""
        return f"diagnostic/{name}"

    @staticmethod
    def continuation(name: str) -> str:
        """A measurement of a finished model's continuations of validation text."""
        return f"continuation/{name}"

    @staticmethod
    def task(task: str, name: str) -> str:
        """A measurement of the finished model on a task; shares are 0 to 1."""
        return f"eval/{task}/{name}"

    @staticmethod
    def held_out(text: str, task: str, name: str) -> str:
        """A measurement of the finished model by a task on a further held-out text."""
        return f"held_out/{text}/{task}/{name}"

    @staticmethod
    def accuracy(task: str) -> str:
        """Accuracy (0 to 1) of the finished model on a task."""
        return Metric.task(task, "accuracy")

    @staticmethod
    def task_and_name(key: str) -> tuple[str, str] | None:
        """The task and the measurement that a metric is; None for one of no task."""
        first, _, rest = key.partition("/")
        task, _, name = rest.rpartition("/")
        return (task, name) if first == "eval" and task and name else None

    @staticmethod
    def worker_mean(name: str) -> str:
        """A measurement of each worker, averaged over the workers."""
        return f"workers/mean/{name}"

    @staticmethod
    def worker_max(name: str) -> str:
        """A measurement of each worker: the largest of the workers."""
        return f"workers/max/{name}"

    @staticmethod
    def system(name: str) -> str:
        """A measurement of the first worker's machine, or of the workers' GPUs (their mean)."""
        return f"system/{name}"


class Artifact:
    """Files of an MLflow run, and the folder of the output folder that holds them."""

    FOLDER = "mlartifacts"

    SPEC = "spec.yaml"
    STUDY = "study.yaml"
    ENVIRONMENT = "environment.json"
    SAMPLES = "samples.jsonl"
    EVALUATION = "evaluation.json"  # results of tasks, with the settings of each
    DIAGNOSTICS = "diagnostics.csv"  # of the finished model: name and value
    PLAN = "plan.json"  # of a study's own run, as what follows
    RESULTS = "results.json"  # names and checksums of the files that `cola fetch` brings


class SampleRecord(BaseModel):
    """One line of `samples.jsonl`: a continuation of validation text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    step: int
    prompt: str
    continuation: str
    reference: str


KINDS: tuple[NllKind, ...] = ("exact", "bound", "estimate")  # the strongest first


def of_remainders(name: str) -> bool:
    """Whether a task's measurement is one by the remainder of its prompts' lengths."""
    return "_at_remainder_" in name or "_gain_divisible_by_" in name


def weakest_kind(kinds: Iterable[NllKind]) -> NllKind:
    """What holds of NLLs of several kinds together; models without a likelihood say nothing."""
    return max((kind for kind in kinds if kind in KINDS), key=KINDS.index, default="exact")


def nll_kind_of(declared: NllKind, solver_difference: float | None) -> NllKind:
    """What a measured NLL is: a bound that a solver gives is one where its steps are short enough.

    `solver_difference` in nats a latent; None where nothing is solved. NaN is not small.
    """
    if declared == "bound" and solver_difference is not None:
        return "bound" if abs(solver_difference) <= SOLVER_TOLERANCE else "estimate"
    return declared


# A paused trial has reached the end of its part of a run: later trials resume from there.
TrialState = Literal["finished", "paused", "stopped", "failed", "diverged"]


class RunResult(BaseModel):
    """How one training run of a trial ended; `metrics` has the last value of each name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    run_key: str
    family: str
    seed: int
    state: str
    reason: str | None
    stop_code: StopCode | None = None  # None: no hook stopped it, or the record is an older one
    reused: bool  # it was finished before the trial
    metrics: dict[str, float]
    nll_kind: NllKind | None = None  # None: it was not validated, or the record is an older one


class TrialSegment(BaseModel):
    """The part of its runs that a trial of a population trains, between two shares of their steps.

    It resumes from the training state of the trial `parent`: its own member's, or a better one's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: int
    member: int
    parent: int | None
    since: float
    until: float


class TrialRequested(BaseModel):
    """A feasible point that a sweep's algorithm asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: Literal["asked"] = "asked"
    trial: int
    arm: str
    point: dict[str, Any]  # key of the study -> value
    identity: str  # equal for trials that do the same
    run_keys: list[str]
    leg: TrialSegment | None = None
    beyond: bool = False  # of the arm's space, on whose edge the best trial lay
    time: float


class TrialFinished(BaseModel):
    """How a trial ended. `metrics` are means over its runs; a stopped trial has its last ones.

    `course` holds the first metric at the evaluations before the end: (share of the budget spent,
    value). Seconds are summed over the trial's runs: `wall` from the first start to the last end,
    `working` from the start of the workers' loop to its end (steps, validations, samples) and in
    measurements of finished models, `training` within optimiser steps. FLOPs are executed ones;
    reused runs count nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: Literal["ended"] = "ended"
    trial: int
    state: TrialState
    reason: str | None
    stop_code: StopCode | None = None  # of the run that gives the trial its state
    metrics: dict[str, float]
    runs: list[RunResult]
    wall_seconds: float
    working_seconds: float
    training_seconds: float
    flops: float
    accelerator_hours: float
    shared_flops: float = 0.0  # of a first stage that another trial had trained
    course: list[tuple[float, float]] = []
    time: float


class PointExcluded(BaseModel):
    """A point that no study can have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: Literal["excluded"] = "excluded"
    arm: str
    point: dict[str, Any]
    reason: str
    time: float


STUDY_FORECASTS = "forecasts.jsonl"  # in a study's folder: of budgets that had no finished run
STUDY_FRONTIER, FRONTIER_VERSION = "frontier.json", 1  # in a study's folder: of generation
STUDY_IMPORT = "imported.json"  # in the folder of a study that `cola import` has made


class SweepFile:
    """Files in a sweep's folder, `<output>/sweeps/<name>`."""

    SPEC = "sweep.yaml"
    LOCK = "driver.lock"
    TRIALS = "trials.jsonl"
    TUNED = "tuned.yaml"
    FORECASTS = "forecasts.jsonl"  # of budgets that a rate sweep had not trained yet
