"""EleutherAI's lm-evaluation-harness with our models, on local tasks."""

from __future__ import annotations

import importlib
import json
import math
import runpy
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from cola.data.tokenizer import TextTokenizer, train_bpe
from cola.errors import SpecError
from cola.families.registry import family_of
from cola.objectives.next_token import token_nll
from cola.seeding import Stream
from cola.spec import LikelihoodSpec

pytest.importorskip("lm_eval")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager

from cola.evaluation.harness import ColaLM
from sweeps.cli import app
from tests.factories import tiny_model

TEXT = "the river finds a lamp under every bridge and sings of rain to no one at all"
WORDS = TEXT.split(" ")
SENTENCES = [
    " ".join(WORDS[(start * step + place * step) % len(WORDS)] for place in range(9)) + ".\n"
    for start in range(17)
    for step in range(1, 8)
]
CHOICES = [
    {"q": " ".join(WORDS[start : start + 3]), "options": WORDS[start + 3 : start + 6], "gold": 0}
    for start in range(8)
]
TASKS = {
    "local_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "local_generation": {
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{options[0]}}",
        "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
    "local_perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}} {{options[0]}} {{options[1]}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    cache = str(tmp_path_factory.mktemp("datasets"))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_DATASETS_CACHE", cache)
    patch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_bpe(SENTENCES, 300)


@pytest.fixture(scope="module")
def folders(tokenizer: TextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each family as `cola export` lays it out; AR knows a little of the sentences."""
    root, made = tmp_path_factory.mktemp("models"), {}
    for name in ("ar", "llada", "cola"):
        vocabulary = tokenizer.vocab_size
        settings = {"latent_dim": 2, "block_size": 4} if name == "cola" else {}
        family, model = tiny_model(name, 30_000, vocabulary, **settings)
        if name == "ar":
            learn(model, tokenizer)
        made[name] = root / name
        family.save(model, made[name])
        start = family.name_tokens(made[name], tokenizer.eos_token_id)
        tokenizer.save(made[name], start)
    return made


def learn(model: Any, tokenizer: TextTokenizer) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    texts = [tokenizer.encode(sentence) for sentence in SENTENCES]
    shortest = min(map(len, texts))
    tokens = torch.tensor([text[:shortest] for text in texts])
    for _ in range(40):
        loss = token_nll(model, tokens).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of task files with their data, as `--include_path` takes it."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in CHOICES))
    for name, task in TASKS.items():
        common = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(common | task))
    return folder


def evaluated(model: str, tasks: Path, names: list[str], **arguments: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments | {"device": "cpu"},
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        batch_size=3,
    )
    assert found is not None
    return found


def responses(found: dict[str, Any], task: str) -> list[Any]:
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["resps"] for sample in samples]


def likelihoods(found: dict[str, Any], task: str) -> list[tuple[float, bool]]:
    pairs = [choice[0] for item in responses(found, task) for choice in item]
    return [(float(value), bool(greedy)) for value, greedy in pairs]


def metrics(found: dict[str, Any], task: str) -> dict[str, Any]:
    return {key: value for key, value in found["results"][task].items() if "stderr" not in key}


@pytest.mark.slow
def test_ar_has_the_numbers_of_the_harness_s_own_hf_model(
    folders: dict[str, Path], tasks: Path
) -> None:
    names = ["local_choice", "local_generation"]
    folder = str(folders["ar"])
    ours = evaluated("cola", tasks, names, pretrained=folder)
    theirs = evaluated("hf", tasks, names, pretrained=folder, dtype="float32")
    for task in names:
        assert metrics(ours, task) == metrics(theirs, task)
    mine, other = likelihoods(ours, "local_choice"), likelihoods(theirs, "local_choice")
    assert len(mine) == 24
    assert [pair[0] for pair in mine] == pytest.approx([pair[0] for pair in other], rel=1e-5)
    assert [pair[1] for pair in mine] == [pair[1] for pair in other]
    assert len({pair[1] for pair in mine}) == 2
    generated = responses(ours, "local_generation")
    assert generated == responses(theirs, "local_generation")
    assert any(text[0] for text in generated)
    assert ours["config"]["loglikelihood_kinds"] == ["exact"]


@pytest.mark.slow
def test_ar_has_the_perplexity_of_the_harness_s_own_hf_model(
    folders: dict[str, Path], tasks: Path
) -> None:
    """`hf` predicts a start token that its tokenizer adds, so it must not add one here."""
    folder, names = str(folders["ar"]), ["local_perplexity"]
    ours = evaluated("cola", tasks, names, pretrained=folder)
    theirs = evaluated("hf", tasks, names, pretrained=folder, dtype="float32", add_bos_token=False)
    mine, other = metrics(ours, "local_perplexity"), metrics(theirs, "local_perplexity")
    assert mine["bits_per_byte,none"] == pytest.approx(other["bits_per_byte,none"], rel=1e-5)
    assert mine["word_perplexity,none"] == pytest.approx(other["word_perplexity,none"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "kinds"),
    [
        ("llada", {"mask_samples": 2, "steps": 4}, ["bound"]),
        ("cola", {"ode_steps": 1, "steps": 2}, ["bound", "estimate"]),
    ],
)
def test_the_other_families_run_the_same_tasks(
    name: str,
    options: dict[str, Any],
    kinds: list[str],
    folders: dict[str, Path],
    tasks: Path,
) -> None:
    found = evaluated("cola", tasks, list(TASKS), pretrained=str(folders[name]), **options)
    assert found["config"]["loglikelihood_kinds"] == kinds
    assert found["config"]["family"] == name
    # Short answers do not fill a block of latents, whose price is then in their numbers.
    assert (found["config"]["continuations_padded"] > 0) is (name == "cola")
    assert found["config"]["loglikelihood_of"].startswith(
        "whole blocks: they include the price" if name == "cola" else "tokens"
    )
    pairs = likelihoods(found, "local_choice")
    assert len(pairs) == 24
    assert len({value for value, _ in pairs}) > 20
    assert all(math.isfinite(value) and not greedy for value, greedy in pairs)
    assert math.isfinite(metrics(found, "local_perplexity")["bits_per_byte,none"])
    texts = [text[0] for text in responses(found, "local_generation")]
    assert len(texts) == 8
    assert not any("." in text or "\n" in text for text in texts)


def test_chain_rule_likelihoods_of_llada_are_exact_and_know_greedy(
    folders: dict[str, Path], tokenizer: TextTokenizer
) -> None:
    model = ColaLM(str(folders["llada"]), masked="chain_rule", device="cpu")
    context = "the river"
    best = None
    for word in [
        model.evaluated.tokenizer.decode([token]) for token in range(tokenizer.vocab_size)
    ]:
        if len(tokenizer.encode(context + word)) != len(tokenizer.encode(context)) + 1:
            continue
        found = ask(model, context, word)
        if best is None or found[0] > best[0]:
            best = found
    assert best is not None
    assert model.kinds == {"exact"}
    assert best[1]
    assert not ask(model, context, " lamp lamp")[1]


def ask(model: ColaLM, context: str, continuation: str) -> tuple[float, bool]:
    request = Instance("loglikelihood", {}, (context, continuation), 0)
    return model.loglikelihood([request], disable_tqdm=True)[0]


def test_requests_give_what_the_family_says(
    folders: dict[str, Path], tokenizer: TextTokenizer
) -> None:
    """Whatever the order and the batch; the context's last space goes with the continuation."""
    model = ColaLM(str(folders["cola"]), ode_steps=1, batch_size=2, device="cpu", seed=5)
    asked = [("the river ", "finds"), ("", "a lamp under"), ("rain", " to no one at all")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in asked]
    found = model.loglikelihood(requests, disable_tqdm=True)
    texts = [("the river", " finds"), *asked[1:]]
    for index, (context, continuation) in enumerate(texts):
        prompt = tokenizer.encode(context)
        expected = family_of("cola").conditional_nll(
            model.evaluated.model,
            [prompt],
            [tokenizer.encode(context + continuation)[len(prompt) :]],
            settings=LikelihoodSpec(ode_steps=1),
            stream=Stream(5, 0, [index]),
            eos_token_id=tokenizer.eos_token_id,
        )
        assert found[index][0] == pytest.approx(-float(expected.nll_B[0]), rel=1e-4)
        assert found[index][1] is False


def test_a_text_longer_than_the_window(folders: dict[str, Path], tokenizer: TextTokenizer) -> None:
    """Every token once, behind the start token and at least one token of context."""
    text = " ".join(WORDS) + " " + " ".join(WORDS)
    tokens = tokenizer.encode(text)
    model = ColaLM(str(folders["ar"]), max_length=8, batch_size=4, device="cpu")
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    (found,) = model.loglikelihood_rolling([request], disable_tqdm=True)
    expected, place = 0.0, 0
    while place < len(tokens):
        end = min(place + 7, len(tokens))
        window = tokens[max(0, end - 8) : end] if place else tokens[:end]
        with torch.no_grad():
            nll = token_nll(model.evaluated.model, torch.tensor([window]))[0]
        expected -= float(nll[len(window) - (end - place) :].double().sum())
        place = end
    assert len(tokens) > 16
    assert found == pytest.approx(expected, rel=1e-5)
    whole = ColaLM(str(folders["ar"]), device="cpu")
    (together,) = whole.loglikelihood_rolling([request], disable_tqdm=True)
    assert together == pytest.approx(ask(whole, "", text)[0], rel=1e-5)
    assert together != pytest.approx(found, rel=1e-3)


def test_a_long_context_keeps_its_end(folders: dict[str, Path], tokenizer: TextTokenizer) -> None:
    model = ColaLM(str(folders["ar"]), max_length=6, device="cpu")
    long = " ".join(WORDS)
    short = tokenizer.decode(tokenizer.encode(long)[-5:])
    assert len(tokenizer.encode(short)) == 5
    assert ask(model, long, "\n") == ask(model, short, "\n")
    with pytest.raises(SpecError, match=r"max_length=6: a continuation has \d+ tokens"):
        ask(model, "the", " " + long)
    request = Instance("generate_until", {}, ("the", {"max_gen_toks": 6}), 0)
    with pytest.raises(SpecError, match="max_new_tokens=6: leaves no room"):
        model.generate_until([request], disable_tqdm=True)


def test_sampling_repeats_with_its_seed(folders: dict[str, Path]) -> None:
    keys = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8, "until": []}
    requests = [Instance("generate_until", {}, ("the", keys), 0) for _ in range(4)]
    texts = {}
    for seed, rows in ((1, 1), (1, 3), (2, 1)):
        model = ColaLM(str(folders["ar"]), seed=seed, batch_size=rows, device="cpu")
        texts[seed, rows] = model.generate_until(requests, disable_tqdm=True)
    assert texts[1, 1] == texts[1, 3]
    assert texts[1, 1] != texts[2, 1]
    assert len(set(texts[1, 1])) > 1


def test_what_cannot_be_opened_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no model that can be evaluated"):
        ColaLM(str(tmp_path), device="cpu")
    family_of("ar").save(family_of("ar").load(folders["ar"]), tmp_path)
    with pytest.raises(SpecError, match=r"has no tokenizer\.json"):
        ColaLM(str(tmp_path), device="cpu")
    with pytest.raises(SpecError, match="--model_args stepz=3: no such option; valid: pretrained"):
        ColaLM(str(folders["ar"]), stepz=3)
    with pytest.raises(SpecError, match="mask_samples"):
        ColaLM(str(folders["ar"]), mask_samples=0)
    with pytest.raises(SpecError, match="batch_size=auto: must be a whole number from 1 on"):
        ColaLM(str(folders["ar"]), batch_size="auto")
    with pytest.raises(SpecError, match="seed=-1: must be a whole number from 0 on"):
        ColaLM(str(folders["ar"]), seed=-1)


def test_without_the_harness_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "cola.evaluation.harness")
    with pytest.raises(SpecError, match=r"lm-eval: .* not installed; pip install"):
        importlib.import_module("cola.evaluation.harness")


def test_the_entry_point_names_the_registered_class() -> None:
    project = Path(__file__).resolve().parents[4] / "pyproject.toml"
    declared = tomllib.loads(project.read_text())["project"]["entry-points"]["lm_eval.models"]
    point = EntryPoint("cola", declared["cola"], "lm_eval.models")
    assert point.load() is ColaLM is get_model("cola")
    assert declared["cola"] == f"{ColaLM.__module__}:{ColaLM.__name__}"


def test_a_wrong_argument_of_the_model_is_one_line(
    folders: dict[str, Path],
    tasks: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`python -m cola.evaluation.harness`, without the seconds that indexing all tasks takes."""
    arguments = ["--model", "cola", "--tasks", "local_choice", "--include_path", str(tasks)]
    arguments += ["--model_args", f"pretrained={folders['ar']},stepz=2"]
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # the command sets it
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    with pytest.raises(SystemExit) as left:
        runpy.run_module("cola.evaluation.harness", run_name="__main__")
    assert left.value.code == 2
    assert "error: --model_args stepz=2: no such option" in capsys.readouterr().err
    assert sys.argv[0] == "harness"


@pytest.mark.slow
def test_the_command_line(
    folders: dict[str, Path], tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cola lm-eval` is the harness's own command, results file and all."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # the command sets it
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    given = [
        *("--model", "cola", "--device", "cpu", "--include_path", str(tasks)),
        *("--tasks", "local_choice,local_generation", "--output_path", str(tmp_path / "out")),
        *("--model_args", f"pretrained={folders['llada']},steps=2,masked=chain_rule"),
    ]
    done = CliRunner().invoke(app, ["lm-eval", *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "|local_choice" in done.stdout
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())
    assert results["config"]["family"] == "llada"
    assert results["config"]["loglikelihood_kinds"] == ["exact"]
