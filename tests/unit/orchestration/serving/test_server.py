"""A served model: OpenAI's client gets what the family generates, and clear refusals."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from typer.testing import CliRunner

from cola.data import PreparedData
from cola.errors import SpecError
from cola.evaluation.models.evaluated_model import EvaluatedModel
from cola.families.registry import definition_of
from cola.spec import GenerationSpec
from orchestration.inference.generate import stream_text
from orchestration.serving.completion_request import ServedModel
from orchestration.serving.engine import Engine, gives_logprobs
from orchestration.serving.server import Service, serve
from orchestration.serving.text_choice import TextChoice
from orchestration.web.access_token import SERVE_TOKEN, AccessToken, access_token, digest_of
from orchestration.web.local_server import LocalServer
from sweeps.cli import app
from tests.factories import tiny_model

TOKEN = "a-token-of-the-tests"
SETTINGS = {"max_tokens": 6, "temperature": 0.7, "seed": 5}


@contextmanager
def served(family: str, data: PreparedData) -> Iterator[tuple[str, EvaluatedModel]]:
    """The server's address, and its model."""
    tokenizer = data.tokenizer
    kind, network = tiny_model(family, 50_000, tokenizer.vocab_size, 3.0)
    model = EvaluatedModel(kind, network, tokenizer, 32, torch.device("cpu"))
    about = ServedModel(
        family, definition_of(family), GenerationSpec(steps=2), tokenizer.encode,
        tokenizer.vocab_size, 32, kind.fills_gaps, gives_logprobs(model),
    )  # fmt: skip
    engine, stop = Engine(model, 8), threading.Event()
    service = Service(about, tokenizer, engine, AccessToken(digest_of(TOKEN)))
    server = LocalServer(0)
    thread = threading.Thread(target=serve, args=(server, service, stop))
    thread.start()
    try:
        yield server.url, model
    finally:
        stop.set()
        thread.join()


def ask(url: str, values: Any, token: str = TOKEN, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    given = {"Authorization": f"Bearer {token}", **headers}
    connection.request("POST", "/v1/completions", json.dumps(values), given)
    answer = connection.getresponse()
    status, content = answer.status, answer.read().decode()
    connection.close()
    return status, json.loads(content) if content.startswith("{") else content


@pytest.mark.parametrize("family", ["ar", "llada", "cola"])
def test_a_text_is_what_generate_makes_whole_streamed_and_in_a_batch(
    family: str, data: PreparedData
) -> None:
    with served(family, data) as (url, model):
        settings = GenerationSpec(steps=2, max_new_tokens=6, temperature=0.7)
        expected = "".join(stream_text(model, "The river", settings, seed=5))
        status, whole = ask(url, {"prompt": "The river", **SETTINGS})
        assert status == 200, whole
        assert whole["choices"][0]["text"].rstrip("\ufffd") == expected
        assert whole["seed"] == 5
        _, batch = ask(url, {"prompt": ["The river", "lamp"], **SETTINGS})
        assert batch["choices"][0]["text"] == whole["choices"][0]["text"]
        _, events = ask(url, {"prompt": "The river", "stream": True, **SETTINGS})
        lines = [line.removeprefix("data: ") for line in events.splitlines() if line]
        assert lines.pop() == "[DONE]"
        pieces = [json.loads(line)["choices"][0] for line in lines]
        assert "".join(piece["text"] for piece in pieces) == whole["choices"][0]["text"]
        assert pieces[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_logprobs_with_echo_are_those_of_the_likelihood(data: PreparedData) -> None:
    with served("ar", data) as (url, model):
        asked = {"prompt": "The river finds", "max_tokens": 0, "echo": True, "logprobs": 2}
        status, answer = ask(url, asked)
        assert status == 200, answer
        found = answer["choices"][0]["logprobs"]
        tokens = torch.tensor([model.tokenizer.encode("The river finds")])
        exact = model.family.next_tokens(model.model, tokens[:, :0], tokens)
        assert exact is not None
        assert found["token_logprobs"] == pytest.approx(exact.log_p_BN[0].tolist())
        best = [max(each.values()) for each in found["top_logprobs"]]
        assert best == pytest.approx(exact.listed_log_p_BNK[0, :, 0].tolist())
        assert "".join(found["tokens"]) == answer["choices"][0]["text"] == "The river finds"


REFUSED = {
    "model": ({"model": "other"}, 404),
    "suffix": ({"suffix": "x"}, 400),
    "steps": ({"steps": 4}, 400),
    "tempratur": ({"tempratur": 1}, 400),
    "temperature": ({"temperature": True}, 400),
    "max_tokens": ({"max_tokens": 1.5}, 400),
    "prompt": ({"prompt": [10**9]}, 400),
    "stop": ({"stop": ["a", ""]}, 400),
    "n": ({"n": 0}, 400),
    "best_of": ({"best_of": 2}, 400),
    "seed": ({"seed": -1}, 400),
    "stream_options": ({"stream_options": {"include_usage": True}}, 400),
}


def test_what_cannot_be_followed_is_refused_by_its_name(data: PreparedData) -> None:
    with served("ar", data) as (url, _):
        for key, (values, expected) in REFUSED.items():
            status, answer = ask(url, {"prompt": "a", **values})
            assert (status, answer["error"]["param"]) == (expected, key)
            assert key in answer["error"]["message"]
        status, answer = ask(url, {"prompt": "a", "max_tokens": 33})
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        status, answer = ask(url, {}, token="another-token-of-them")
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert ask(url, {"prompt": "a"}, Host="elsewhere.example")[0] == 403


def test_the_public_client_reads_answers_and_errors(data: PreparedData) -> None:
    openai = pytest.importorskip("openai", reason="no OpenAI client; `make` installs it")
    with served("ar", data) as (url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=TOKEN, max_retries=0)
        assert [model.id for model in client.models.list()] == ["ar"]
        own = {"repetition_penalty": 1.5}
        asked = {"model": "ar", "prompt": "The", "extra_body": own, **SETTINGS}
        answer = client.completions.create(n=2, **asked)
        assert [choice.index for choice in answer.choices] == [0, 1]
        pieces = client.completions.create(stream=True, **asked)
        assert "".join(piece.choices[0].text for piece in pieces) == answer.choices[0].text
        with pytest.raises(openai.BadRequestError, match="they read"):
            client.completions.create(model="ar", prompt="a", extra_body={"steps": 2})


def test_no_part_of_a_stop_is_shown() -> None:
    text = TextChoice("".join, ["END"], most=20, eos=None)  # tokens are characters
    shown = []
    for character in "aEbENDc":
        text.add([character])
        shown.append(text.take())
        if text.finish_reason is not None:
            break
    assert (shown, text.finish_reason) == (["a", "", "Eb", "", "", ""], "stop")


def test_tokens_of_people_are_checked_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SERVE_TOKEN, raising=False)
    made = access_token(None, SERVE_TOKEN)
    assert made.shown is not None
    assert made.accepts(f"Bearer {made.shown}")
    assert not made.accepts(f"Basic {made.shown}")
    assert made.shown not in repr(made)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(SpecError, match=r"other users may read it \(mode 0644\)"):
        access_token(file, SERVE_TOKEN)
    file.chmod(0o600)
    assert access_token(file, SERVE_TOKEN).accepts(f"Bearer {TOKEN}")
    for text, problem in (("short", "has 5 characters"), ("two words of a token", "one word")):
        monkeypatch.setenv(SERVE_TOKEN, text)
        with pytest.raises(SpecError, match=problem) as refusal:
            access_token(None, SERVE_TOKEN)
        assert text not in str(refusal.value)
    with pytest.raises(SpecError, match="is set too"):
        access_token(file, SERVE_TOKEN)


def test_a_port_that_is_taken_is_refused_before_a_model_is_looked_for(tmp_path: Path) -> None:
    with LocalServer(0) as other:
        port = str(other.server_address[1])
        given = ["serve-model", "no/model", "--output", str(tmp_path), "--port", port]
        result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, SpecError)
    assert f"--port {port}: cannot be listened on" in str(result.exception)
