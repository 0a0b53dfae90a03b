"""What a client asks for: the body of `POST /v1/completions`, in OpenAI's form.

A key that the model cannot follow is refused by its name; nothing is left out in silence.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from cola.errors import SpecError, validation_problem
from cola.families.interface.definition import FamilyDefinition
from cola.sampling.predictive import LISTED
from cola.spec import GenerationSpec
from orchestration.planning.catalog import nearest

MOST_CHOICES = 64  # texts of one request; a chosen value
MOST_STOPS = 4  # as OpenAI's interface has it
MOST_SEED = 2**63 - 1
SEED_RANGE = 2**31  # of seeds that the server chooses
# What GenerationSpec calls otherwise, or gets from keys of the interface.
OWN_NAMES = {"max_new_tokens": "max_tokens"}

StopText = Annotated[StrictStr, Field(min_length=1, max_length=1000)]
# Integers are numbers too; truth values and texts are none.
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class RequestError(SpecError):
    """A request that is refused: the HTTP status, and the key and the code of OpenAI's errors."""

    def __init__(
        self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class StreamOptions(BaseModel):
    """How a streamed answer ends."""

    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool = False


class Body(BaseModel):
    """The keys of OpenAI's completions; others are the family's own settings."""

    model_config = ConfigDict(extra="allow")

    prompt: Any = ""
    model: StrictStr | None = None
    max_tokens: Annotated[StrictInt, Field(ge=0)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=MOST_SEED)] | None = None
    stop: Any = None
    n: Annotated[StrictInt, Field(ge=1, le=MOST_CHOICES)] | None = None
    echo: StrictBool | None = None
    logprobs: Annotated[StrictInt, Field(ge=0, le=LISTED)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    suffix: StrictStr | None = None
    best_of: StrictInt | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    logit_bias: dict[str, Any] | None = None
    user: StrictStr | None = None


@dataclass(frozen=True)
class ServedModel:
    """What requests are held against: the model's name, its family, its settings where a request
    has none, and the tokens that it knows and reads.

    `fills_gaps` and `gives_logprobs`: whether the family has `suffix` and `logprobs`. `defaults`
    are the model's own generation settings.
    """

    name: str
    definition: FamilyDefinition
    defaults: GenerationSpec
    encode: Callable[[str], list[int]]
    vocabulary: int
    context: int | None
    fills_gaps: bool
    gives_logprobs: bool
    sizes: Any = None  # the model's specification, where it is known

    @property
    def keys_read(self) -> frozenset[str]:
        """Generation settings that the model reads."""
        return self.definition.keys_read("generation", self.sizes)

    def read_settings(self, settings: GenerationSpec) -> dict[str, Any]:
        """What the model reads of generation settings, by the names that requests have."""
        read = sorted(self.keys_read)
        return {OWN_NAMES.get(key, key): getattr(settings, key) for key in read}


@dataclass(frozen=True)
class Completions:
    """A request as it is answered: each prompt's tokens continued `n` times.

    `prompts` are token ids, choice i of all is of prompt i // n. `tokens` is how many new tokens a
    choice has at most; 0: the prompt alone is given back.
    """

    prompts: tuple[tuple[int, ...], ...]
    settings: GenerationSpec
    tokens: int
    seed: int
    stops: tuple[str, ...] = ()
    n: int = 1
    echo: bool = False
    logprobs: int | None = None
    stream: bool = False
    usage_at_end: bool = False
    suffix: tuple[int, ...] | None = None

    @property
    def choices(self) -> int:
        """How many texts are asked for."""
        return len(self.prompts) * self.n

    def prompt_of(self, choice: int) -> list[int]:
        """The tokens of a choice's prompt."""
        return list(self.prompts[choice // self.n])


def parse_request(content: bytes, served: ServedModel) -> Completions:
    """The request in a body.

    Raises:
        RequestError: naming the first key that cannot be followed, its value and the remedy.
    """
    body = _body(content)
    if body.model is not None and body.model != served.name:
        raise RequestError(
            f"model: {_shown(body.model)} is not served here; {served.name} is",
            param="model", status=404, code="model_not_found",
        )  # fmt: skip
    _check_unsupported(body, served)
    tokens = 16 if body.max_tokens is None else body.max_tokens  # as OpenAI's interface has it
    if tokens == 0 and not body.echo:
        raise RequestError("max_tokens: 0 gives no text; ask for 1 or more, or for echo",
                           param="max_tokens")  # fmt: skip
    request = Completions(
        prompts=_prompts(body.prompt, served),
        settings=_settings(body, served, tokens),
        tokens=tokens,
        seed=secrets.randbelow(SEED_RANGE) if body.seed is None else body.seed,
        stops=_stops(body.stop),
        n=body.n or 1,
        echo=bool(body.echo),
        logprobs=body.logprobs,
        stream=bool(body.stream),
        usage_at_end=body.stream_options is not None and body.stream_options.include_usage,
        suffix=None if body.suffix is None else tuple(served.encode(body.suffix)),
    )
    if request.choices > MOST_CHOICES:
        raise RequestError(
            f"n: {len(request.prompts)} prompts, {request.n} times each, are {request.choices} "
            f"texts; a request may ask for {MOST_CHOICES}, so send several",
            param="n",
        )
    _check_room(request, served.context)
    return request


def _body(content: bytes) -> Body:
    try:
        values = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise RequestError(f"the body is not JSON ({reason}); send one JSON object") from None
    if not isinstance(values, dict):
        raise RequestError(f"the body is JSON of {type(values).__name__}; send one JSON object")
    try:
        return Body.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0]) if first["loc"] else None
        given = _shown(first.get("input"))
        raise RequestError(f"{validation_problem(error)}, not {given}", param=param) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_unsupported(body: Body, served: ServedModel) -> None:
    """Refuse what OpenAI's interface has and this model, or this server, has not."""
    label = served.definition.label
    penalties = ("frequency_penalty", "presence_penalty")
    for key in penalties:
        if getattr(body, key):
            raise RequestError(f"{key}: {getattr(body, key):g} is not supported here; leave it out",
                               param=key)  # fmt: skip
    if body.logit_bias:
        raise RequestError("logit_bias: is not supported here; leave it out", param="logit_bias")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise RequestError(
            f"best_of: {body.best_of} texts of which the best are kept is not supported here; "
            "leave it out, or give it as n", param="best_of",
        )  # fmt: skip
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options: is for streamed answers; leave it out, or set stream",
                           param="stream_options")  # fmt: skip
    if body.suffix is not None and not served.fills_gaps:
        raise RequestError(
            f"suffix: {label} models cannot fill a gap, they see only what is left of it; leave it "
            "out", param="suffix",
        )  # fmt: skip
    if body.suffix is not None and (body.echo or body.stream or body.max_tokens == 0):
        raise RequestError("suffix: is not for echo, stream or max_tokens 0; leave one of the two "
                           "out", param="suffix")  # fmt: skip
    if body.logprobs is None:
        return
    if not served.gives_logprobs:
        raise RequestError(
            f"logprobs: {label} models predict no token from those before it alone; leave it out",
            param="logprobs",
        )
    if body.stream or body.suffix is not None:
        raise RequestError("logprobs: is not for stream or suffix; leave one of the two out",
                           param="logprobs")  # fmt: skip


def _prompts(given: Any, served: ServedModel) -> tuple[tuple[int, ...], ...]:
    """Token ids of the prompts: of a text, texts, token ids, or lists of them."""
    if given is None:
        given = ""
    if isinstance(given, str):
        return (tuple(served.encode(given)),)
    if not isinstance(given, list) or not given:
        raise RequestError(
            f"prompt: {_shown(given)} is neither a text nor token ids, nor a list of them",
            param="prompt",
        )
    if isinstance(given[0], int):
        given = [given]
    if len(given) > MOST_CHOICES:
        raise RequestError(
            f"prompt: {len(given)} prompts; a request may have {MOST_CHOICES}, so send several",
            param="prompt",
        )
    return tuple(_prompt(each, served) for each in given)


def _prompt(given: Any, served: ServedModel) -> tuple[int, ...]:
    if isinstance(given, str):
        return tuple(served.encode(given))
    if not isinstance(given, list):
        raise RequestError(f"prompt: {_shown(given)} is neither a text nor a list of token ids",
                           param="prompt")  # fmt: skip
    for token in given:
        if type(token) is not int or not 0 <= token < served.vocabulary:
            raise RequestError(
                f"prompt: {_shown(token)} is no token id of this model; they are 0 to "
                f"{served.vocabulary - 1}",
                param="prompt",
            )
    return tuple(given)


def _stops(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else given or []
    problem = None
    if not isinstance(stops, list) or not all(isinstance(each, str) and each for each in stops):
        problem = f"{_shown(given)} is neither a text nor a list of texts, none of them empty"
    elif len(stops) > MOST_STOPS:
        problem = f"{len(stops)} texts; give {MOST_STOPS} at most"
    if problem is not None:
        raise RequestError(f"stop: {problem}", param="stop")
    return tuple(dict.fromkeys(stops))


def _settings(body: Body, served: ServedModel, tokens: int) -> GenerationSpec:
    """The generation settings: OpenAI's keys and defaults, over the model's own for the others."""
    top_p = None if body.top_p == 1 else body.top_p
    temperature = 1.0 if body.temperature is None else body.temperature
    given = {"temperature": temperature, "top_p": top_p}
    own = _own_settings(body.model_extra or {}, served)
    for key, value in (("temperature", body.temperature), ("top_p", top_p)):
        if value is not None and key not in served.keys_read:
            raise RequestError(
                f"{key}: {served.definition.label} models do not read it; leave it out", param=key
            )
    values = served.defaults.model_dump() | given | own | {"max_new_tokens": max(1, tokens)}
    try:
        return GenerationSpec.model_validate(values, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{validation_problem(error)}, not {_shown(first.get('input'))}",
                           param=str(first["loc"][0]))  from None  # fmt: skip


def _own_settings(given: Mapping[str, Any], served: ServedModel) -> dict[str, Any]:
    """Settings of the family that are no keys of OpenAI's."""
    read = served.keys_read - OWN_NAMES.keys()
    for key in given:
        if key in OWN_NAMES:
            raise RequestError(f"{key}: is called {OWN_NAMES[key]} here", param=key)
        if key in read:
            continue
        if key in GenerationSpec.model_fields:
            raise RequestError(
                f"{key}: {served.definition.label} models do not read it; they read "
                f"{', '.join(sorted(read))}", param=key,
            )  # fmt: skip
        known = [*Body.model_fields, *read]
        raise RequestError(
            f"{_shown(key)}: is no setting of completions{nearest(key, known) or '; leave it out'}",
            param=key,
        )
    return dict(given)


def _check_room(request: Completions, context: int | None) -> None:
    """Refuse a prompt that the context has no room for beside the new tokens."""
    if context is None:
        return
    around = len(request.suffix or ())
    for number, prompt in enumerate(request.prompts):
        given = len(prompt) + around
        if given + request.tokens > context:
            which = f"prompt {number}" if len(request.prompts) > 1 else "prompt"
            raise RequestError(
                f"{which}: {given} tokens and {request.tokens} new ones (max_tokens) are more than "
                f"the model's context of {context}; shorten the prompt or lower max_tokens",
                param="prompt", code="context_length_exceeded",
            )  # fmt: skip


def _shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."
