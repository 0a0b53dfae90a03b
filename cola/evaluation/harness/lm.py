"""The harness's model type `cola`: AR, LLaDA and Cola DLM folders behind one class."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401  (the harness lists its own models only while it has none)
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)
from tqdm import tqdm

from cola.batches import batches
from cola.errors import SpecError
from cola.evaluation.harness.requests import NO_TEMPLATE, Cuts, end_of, item_of
from cola.evaluation.harness.settings import (
    Request,
    device_of,
    model_settings,
    request_of,
    whole,
)
from cola.evaluation.items import Id
from cola.evaluation.models.context import fitted_prompt, room_for_prompts
from cola.evaluation.models.evaluated_model import open_evaluated_model
from cola.evaluation.tasks.continuations import continuations
from cola.families.registry import definition_of
from cola.seeding import Stream

MODEL_TYPE = "cola"  # what `--model` calls it
DEFAULT_LENGTH = 2048
WHOLE_BLOCKS = (
    "whole blocks: they include the price of the latents that pad the last one, which is not the "
    "text's and may outweigh it in short answers"
)
log = logging.getLogger(__name__)

Pair = tuple[list[int], list[int]]  # tokens of a prompt and of its continuation


@register_model(MODEL_TYPE)
class ColaLM(TemplateLM):
    """A folder that `cola export` wrote (or of the public release, with its tokenizer).

    A text's number does not depend on the batch it is in. AR's are those of the harness's `hf`
    model on the same folder, but for two kinds of text. Where one is longer than `max_length`, `hf`
    drops the start token and this class keeps it, as in training. Where a continuation changes how
    the end of its context is tokenised, `hf` scores the tokens behind as many as the context has
    (none, of a continuation that is merged into the last one), and this class those behind the
    tokens that context and both together have in common.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        *,
        max_length: int | str | None = None,
        seed: int | str = 0,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """Open the folder.

        `max_length`: the most tokens of prompt and continuation together (None: what the model's
        configuration says, as `cola export` writes it; else 2048). `options` are
        keys of `GenerationSpec` and `LikelihoodSpec`. `max_batch_size` is the harness's for
        batches that it sizes itself, which this class does not.

        Raises:
            SpecError: when the folder holds no model or no tokenizer, or for an unknown option.
        """
        super().__init__()
        self.generation, self.likelihood_settings = model_settings(options)
        self.batch_size = whole("batch_size", batch_size, 1)
        where = device_of(device)
        self.evaluated = open_evaluated_model(Path(str(pretrained)).expanduser(), None, where)
        self._device = self.evaluated.device
        self.max_length: int = self.evaluated.context or DEFAULT_LENGTH
        if max_length is not None:
            self.max_length = whole("max_length", max_length, 1)
        self.seed = whole("seed", seed, 0)
        self.kinds: set[str] = set()
        self.cuts = Cuts()
        self.padded = 0  # continuations whose number has the price of what fills up their block

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> ColaLM:
        """Open the folder with the command's options, over which `--model_args` win."""
        given = {k: v for k, v in (additional_config or {}).items() if v is not None} | arg_dict
        if "pretrained" not in given:
            raise SpecError(
                "--model_args: lacks pretrained=DIR, a folder that `cola export` wrote; add it"
            )
        return cls(**given)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> ColaLM:
        """As `create_from_arg_obj`, from `key=value,key=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """No template, as none is asked for.

        Raises:
            SpecError: where one is.
        """
        if chat_template:
            raise SpecError(NO_TEMPLATE)
        return ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Refuse: these are base models.

        Raises:
            SpecError: always.
        """
        raise SpecError(NO_TEMPLATE)

    @property
    def tokenizer_name(self) -> str:
        """What the harness keys prompts by that it made with a template: refused, as above."""
        raise SpecError(NO_TEMPLATE)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.evaluated.tokenizer.eos_token_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids without special tokens: a start token is the family's affair."""
        return self.evaluated.tokenizer.encode(string)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results about the model."""
        return {
            "family": self.evaluated.family.name,
            "loglikelihood_kinds": sorted(self.kinds),
            "loglikelihood_of": "tokens" if not self.padded else WHOLE_BLOCKS,
            "continuations_padded": self.padded,
            "max_length": self.max_length,
            "cut_to_max_length": asdict(self.cuts),
            "model_seed": self.seed,
            "generation": self.generation.model_dump(),
            "likelihood": self.likelihood_settings.model_dump(),
        }

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """log p(continuation | context) in nats, and whether greedy generation makes it.

        Both are of the tokens behind those that the context's and the joint text's tokens begin
        with in common: where the continuation is merged into the end of the context, of that end
        too. Where the family cannot say what is greedy (see `cola.families.Conditional`), False.

        Raises:
            SpecError: for a continuation without tokens of its own, naming its item.
        """
        keyed = []
        for request in requests:
            context, continuation = request.args
            prompt, answer = self._encode_pair(context, continuation) if continuation else ([], [])
            if not answer:
                raise SpecError(
                    f"{item_of(request)}: the continuation {continuation!r} of the context "
                    f"{end_of(context)!r} has no token of its own, so it has no likelihood; "
                    "give the item options with text"
                )
            keyed.append(((context, continuation), prompt, answer))
        return self._loglikelihood_tokens(keyed, disable_tqdm=disable_tqdm)

    def _encode_pair(self, context: str, continuation: str) -> Pair:
        """Tokens in common with the context's, and the rest of the joint text's.

        As in the harness, spaces at the end of the context go with the continuation.
        """
        text, ended = context + continuation, context.rstrip()
        joint = self.tok_encode(text)
        alone = self.tok_encode(ended) if ended else []
        pairs = zip(alone, joint, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return joint[:common], joint[common:]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        pairs = [self._fitting(prompt, continuation) for _, prompt, continuation in requests]
        cut = sum(len(pair[0]) < len(asked[1]) for pair, asked in zip(pairs, requests, strict=True))
        self.cuts.likelihood_contexts += cut
        self._warn(cut, len(requests), "contexts of loglikelihood lose their beginning")
        self._count_padded([len(continuation) for _, continuation in pairs])
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="loglikelihood") as bar:
            for index, nll, greedy in self._conditional(pairs):
                found[index] = (-nll, greedy)
                self.cache_hook.add_partial("loglikelihood", requests[index][0], found[index])
                bar.update()
        return found

    def _count_padded(self, lengths: Sequence[int]) -> None:
        """Count, and warn of, continuations that the family prices with padding."""
        priced_tokens, model = self.evaluated.family.priced_tokens, self.evaluated.model
        padded = sum(priced_tokens(model, length) != length for length in lengths)
        self.padded += padded
        if padded:
            log.warning(
                "%d of %d continuations do not fill their last block: their numbers are of %s",
                padded,
                len(lengths),
                WHOLE_BLOCKS,
            )

    def _warn(self, cut: int, total: int, what: str) -> None:
        if cut:
            log.warning("%d of %d %s to fit max_length=%d", cut, total, what, self.max_length)

    def _fitting(self, prompt: list[int], continuation: list[int]) -> Pair:
        room = self.max_length - len(continuation)
        if room < 0:
            raise SpecError(
                f"--model_args max_length={self.max_length}: a continuation has "
                f"{len(continuation)} tokens; raise it if the model can, or leave the task out"
            )
        return fitted_prompt(prompt, room)[0], continuation

    def _conditional(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, float, bool]]:
        """(index, nats, greedy) of every pair, batches of the longest first."""
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        for chosen in batches(order, self.batch_size):
            found = self.evaluated.family.conditional_nll(
                self.evaluated.model,
                [pairs[index][0] for index in chosen],
                [pairs[index][1] for index in chosen],
                settings=self.likelihood_settings,
                stream=Stream(self.seed, 0, chosen, device=self._device),
                eos_token_id=self.eot_token_id,
            )
            if found.greedy_B is None and not self.kinds:
                log.warning("whether a continuation is greedy is not known here; it counts as no")
            self.kinds.add(found.kind)
            greedy = [False] * len(chosen) if found.greedy_B is None else found.greedy_B.tolist()
            yield from zip(chosen, found.nll_B.tolist(), greedy, strict=True)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """log p(text) in nats.

        A text that is longer than `max_length` is read in windows where the family's number is
        exact. A bound stays one only of the whole text, whatever its length.

        Raises:
            SpecError: for a text without tokens, naming its item.
        """
        owners, pairs, long = [], [], 0
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            if not tokens:
                raise SpecError(
                    f"{item_of(request)}: the text {request.args[0]!r} has no tokens, so it has no "
                    "likelihood; leave the item out"
                )
            long += len(tokens) > self.max_length
            for pair in self._windows(tokens):
                owners.append(owner)
                pairs.append(pair)
        self._report_long(long, len(requests))
        totals = [0.0] * len(requests)
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="loglikelihood_rolling") as bar:
            for index, nll, _ in self._conditional(pairs):
                totals[owners[index]] -= nll
                bar.update()
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    @property
    def _exact(self) -> bool:
        family = self.evaluated.family
        sizes = family.sizes_of(self.evaluated.model)
        kind = definition_of(family.name).nll_kind(sizes, self.likelihood_settings)
        return kind == "exact"

    def _report_long(self, long: int, total: int) -> None:
        if self._exact:
            self.cuts.rolling_texts_in_windows += long
            self._warn(long, total, "texts of loglikelihood_rolling are read in windows")
        elif long:
            self.cuts.rolling_texts_beyond_length += long
            log.warning(
                "%d of %d texts of loglikelihood_rolling are read whole beyond max_length=%d: "
                "a bound holds of the whole text only",
                long,
                total,
                self.max_length,
            )

    def _windows(self, tokens: list[int]) -> Iterator[Pair]:
        if not self._exact or len(tokens) <= self.max_length:
            yield [], tokens
            return
        # The start token takes one place of every window; it is also what the first one begins
        # with, in the place of the harness's prefix.
        length = max(1, self.max_length - 1)
        windows = get_rolling_token_windows(tokens, self.eot_token_id, length, 1)
        for number, window in enumerate(windows):
            context, predicted = make_disjoint_window(window)
            yield (context if number else []), predicted

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The continuations' texts, up to the first of the request's `until` texts."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="generate_until") as bar:
            for indices in groups.values():
                asked = request_of(self.generation, requests[indices[0]].args[1])
                contexts: dict[Id, str] = {index: requests[index].args[0] for index in indices}
                for item, text in self._continued(contexts, asked):
                    index = int(item)
                    texts[index] = text
                    self.cache_hook.add_partial("generate_until", requests[index].args, text)
                    bar.update()
        return texts

    def _continued(self, contexts: dict[Id, str], asked: Request) -> Iterator[tuple[Id, str]]:
        evaluated = replace(self.evaluated, context=self.max_length)
        new, length = asked.settings.max_new_tokens, self.max_length
        room_for_prompts(
            length,
            asked.settings,
            asked=f"--model_args max_length={length}: max_new_tokens={new}:",
            remedy=f"give --gen_kwargs max_gen_toks= of less than {length}",
        )
        prompts = {index: self.tok_encode(text) for index, text in contexts.items()}
        until = asked.until

        def ended(text: str) -> bool:
            return any(stop in text for stop in until)

        made = continuations(
            evaluated,
            prompts,
            asked.settings,
            seed=self.seed,
            rows=self.batch_size,
            ended=ended if until else None,
        )
        cut = 0
        for index, found in made:
            cut += found.cut_tokens > 0
            yield index, _before(found.text, until)
        self.cuts.generation_prompts += cut
        self._warn(cut, len(contexts), "prompts of generate_until lose their beginning")


def _before(text: str, stops: Iterable[str]) -> str:
    """The text before the first of the stops."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
