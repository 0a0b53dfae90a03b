"""The commands of `cola`: their panels, summaries and examples, and the module that has each.

`cola --help` prints them from here: a command's module, which may take a second to import, is
imported when that command is called. A test compares every line with its command.
"""

from __future__ import annotations

from dataclasses import dataclass

STUDIES, MODELS, LAWS = "Studies and sweeps", "Trained models", "Scaling laws from any table"
CLUSTERS, MACHINE = "Clusters", "This machine"


@dataclass(frozen=True)
class Entry:
    """A command before its module is imported.

    `summary` is the first paragraph of its help. `module` has it in its `app`; a `group` is all of
    that `app`.
    """

    name: str
    panel: str
    summary: str
    module: str
    examples: tuple[str, ...] = ()
    group: bool = False
    hidden: bool = False


STUDY, JOBS = "orchestration.cli.study", "orchestration.cli.jobs"
RECIPES, SCORES, ANALYSIS = "orchestration.cli.clusters", "orchestration.cli.score", "analysis.cli"

COMMANDS = (
    Entry(
        "init", STUDIES,
        "Write a first study of a folder of texts, for this machine and the minutes that one has.",
        STUDY, ("cola init books/", "cola init books/ --minutes 60 --to study.yaml"),
    ),
    Entry("studies", STUDIES, "List the studies that ship with the product.", STUDY),
    Entry(
        "plan", STUDIES, "Print the runs of a study, with their cost, before anything starts.",
        STUDY, (
            "cola plan demo",
            "cola plan study.yaml --set matching.seeds=[0,1] --wide",
            "cola plan study.yaml --json",
        ),
    ),
    Entry(
        "run", STUDIES,
        "Train what the study lacks: finished runs are reused, interrupted ones resume.", STUDY, (
            "cola run demo",
            "cola run study.yaml --rehearse",
            "cola run study.yaml --set output=/data/outputs",
        ),
    ),
    Entry(
        "status", STUDIES,
        "Show the state of each run of a study, from the ledger and the journals.",
        "orchestration.cli.status", (
            "cola status demo",
            "cola status study.yaml --workers",
            "cola status demo --json",
        ),
    ),
    Entry(
        "ls", STUDIES,
        "List the studies and sweeps of an output folder, or the runs of one, with their states.",
        "orchestration.cli.status", (
            "cola ls",
            "cola ls demo",
            "cola ls --output /data/outputs --json",
        ),
    ),
    Entry(
        "watch", STUDIES,
        "Show a study or sweep as a page on loopback that follows its files, until interrupted.",
        "sweeps.watch_cli", (
            "cola watch demo",
            "cola watch rates --output /shared/outputs",
            "cola watch study.yaml --port 8000 --token-file ~/.cola-token",
        ),
    ),
    Entry(
        "report", STUDIES,
        "Fit the study's scaling curves and write report.html, report.md, figures and tables.",
        ANALYSIS, ("cola report demo", "cola report demo --target 1e13 --json"),
    ),
    Entry(
        "sweep", STUDIES, "Many runs with a question: `cola sweep SPEC [--scale S] [--plan]`.",
        "sweeps.sweep_cli", (
            "cola sweep list",
            "cola sweep rates.yaml --plan",
            "cola sweep rates.yaml",
            "cola sweep status rates.yaml",
        ), group=True,
    ),
    Entry(
        "clean", STUDIES,
        "Remove training checkpoints of finished runs; models, and what was asked to be kept, "
        "stay.",
        "orchestration.cli.clean", ("cola clean demo --plan", "cola clean demo"),
    ),
    Entry(
        "schema", STUDIES,
        "Print the JSON Schema of a kind of file (study, sweep, clusters), for editors, or of what "
        "`cola fit`, `compare` and `forecast` print with --json; or the reference of all keys.",
        "sweeps.schema_cli", ("cola schema study --to study.schema.json",),
    ),
    Entry(
        "generate", MODELS, "Continue a text, or fill a gap in one, with a finished run's model.",
        STUDY, (
            'cola generate demo/ar-4e+12-seed66 --prompt "Alice was"',
            'cola generate demo/ar-4e+12-seed66 --prompt "Alice" --max-new-tokens 32 --json',
        ),
    ),
    Entry(
        "evaluate", MODELS,
        "Evaluate finished models on tasks; the same command resumes where it was cut off.",
        "orchestration.cli.evaluate", (
            "cola evaluate demo",
            "cola evaluate demo/ar-4e+12-seed66 --tasks likelihood,cloze --items 50 --json",
        ),
    ),
    Entry(
        "frontier", MODELS,
        "Measure quality against diversity and cost of generation over sampling settings.",
        "orchestration.frontier.cli", (
            "cola frontier demo --plan",
            "cola frontier demo",
            "cola frontier demo --vary generation.temperature=0.5,0.8 --prompts 1000",
        ),
    ),
    Entry(
        "score", MODELS,
        "Score any model's generations on a few-shot task; rates are in per cent.", SCORES,
    ),
    Entry(
        "items", MODELS,
        "Write a task's public data set as prompted items, for use where there is no network.",
        SCORES,
    ),
    Entry(
        "lm-eval", MODELS,
        "EleutherAI's lm-evaluation-harness, with --model cola --model_args pretrained=DIR.",
        SCORES,
    ),
    Entry(
        "export", MODELS,
        "Write a finished run's model with its tokenizer as a plain Hugging Face folder.", STUDY,
        ("cola export demo/ar-4e+12-seed66 --to models/ar",),
    ),
    Entry(
        "serve-model", MODELS,
        "Serve a finished model on loopback in the form of OpenAI's completions, until "
        "interrupted.",
        "orchestration.serving.cli", (
            "cola serve-model demo/ar-4e+12-seed66",
            "cola serve-model models/ar --port 8000 --token-file ~/.cola-token",
        ),
    ),
    Entry(
        "check-release", MODELS,
        "Recompute a folder of the public release's reference tensors; exit 1 if any is off.",
        SCORES,
    ),
    Entry(
        "fit", LAWS, "Fit a scaling law to a table of training runs, with intervals and warnings.",
        ANALYSIS, (
            "cola fit runs.csv --n params --d tokens",
            "cola fit runs.csv --flops flops --law auto --predict c=1e22",
            "cola fit runs.csv --flops flops --json",
        ),
    ),
    Entry(
        "compare", LAWS,
        "Compare two studies, or a study and a table: how much less compute for the same loss.",
        ANALYSIS, ("cola compare demo books --plot compared.png",),
    ),
    Entry(
        "import", LAWS,
        "Read another project's runs and keep them as a study, for report, compare and forecast.",
        ANALYSIS,
    ),
    Entry(
        "forecast", LAWS, "Forecasts that are registered before a run.",
        ANALYSIS, (
            "cola forecast register demo --target c=1e13",
            "cola forecast score demo",
        ),
    ),
    Entry(
        "submit", CLUSTERS,
        "Run a study or sweep on a cluster; attaches where it is running already.", JOBS,
        ("cola submit study.yaml --cluster mine --detach",),
    ),
    Entry(
        "resume", CLUSTERS,
        "Resume a study or sweep that stopped or failed; finished runs are reused.", JOBS,
    ),
    Entry(
        "jobs", CLUSTERS,
        "List the jobs of a study or sweep on a cluster, with their states.", JOBS,
        ("cola jobs books --cluster mine", "cola jobs books --cluster mine --json"),
    ),
    Entry(
        "logs", CLUSTERS,
        "Follow the output of the jobs of a study or sweep that run, or of its last one.", JOBS,
    ),
    Entry(
        "stop", CLUSTERS,
        "Stop a study or sweep on a cluster: its trainings save a checkpoint first.", JOBS,
    ),
    Entry(
        "fetch", CLUSTERS,
        "Bring report, tables, plan, events and the runs' records from a cluster; repeat to renew.",
        "orchestration.cli.fetch",
    ),
    Entry(
        "recipe", CLUSTERS,
        "Print the Dockerfile of an image, a KubeRay RayJob, a `ray up` file or a Slurm script for "
        "a study or sweep.", RECIPES,
        ("cola recipe study.yaml --kind slurm --set output=/shared/outputs",),
    ),
    Entry(
        "cluster", CLUSTERS, "Clusters that clusters.yaml describes.",
        RECIPES,
    ),
    Entry(
        "doctor", MACHINE,
        "Check this environment and say what to do; exit 1 where a study could not run.", RECIPES,
        ("cola doctor", "cola doctor study.yaml --json"),
    ),
    Entry(
        "benchmark", MACHINE,
        "Measure this device: training and generation of a study's models, on random tokens.",
        "orchestration.benchmark.cli",
        ("cola benchmark", "cola benchmark study.yaml --rungs 0-1 --json"),
    ),
    Entry(
        "mlflow", MACHINE,
        "Serve the output folder's MLflow store, or another, on loopback, until interrupted.",
        RECIPES, ("cola mlflow --port 5000",),
    ),
    Entry(
        "slurm-job", CLUSTERS,
        "What a script of `cola recipe --kind slurm` runs on the first of a job's nodes.", JOBS,
        hidden=True,
    ),
    Entry(
        "sources-digest", CLUSTERS,
        "Print the digest of this product's own sources, by which those of machines are compared.",
        JOBS, hidden=True,
    ),
)  # fmt: skip
