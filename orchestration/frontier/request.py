"""What a frontier is asked for: settings, prompts, judges, batch sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cola.errors import SpecError
from cola.evaluation.frontier.prompts import Prompts
from cola.evaluation.frontier.settings import PREFIX, Axes, sampling_points
from cola.evaluation.tasks.catalog import held_out
from cola.spec import GenerationSpec, apply_overrides
from cola.spec.inference import ANCESTRAL
from cola.study import EvaluationSpec
from orchestration.frontier.runs import CurveRuns
from orchestration.inference.target import Target

BASE_KEYS = ("prompt_tokens",)  # beside those of generation


@dataclass(frozen=True)
class FrontierRequest:
    """`changes`: of the base settings; `axes`: keys that are varied from it, one at a time or
    `crossed`. `prompts` held-out prompts with `draws` texts behind each. `batches`: sizes at which
    cost is measured; none: it is not. `features`: a folder whose model MAUVE represents texts by.
    """

    changes: tuple[str, ...]
    axes: Axes
    crossed: bool
    prompts: int
    draws: int
    seed: int
    batches: tuple[int, ...]
    reference: Target | None
    features: Path | None

    def evaluation(self, target: Target) -> EvaluationSpec:
        """A model's own settings, drawn from as it is, with the changes.

        Raises:
            SpecError: an unknown key or value, or one that a frontier does not read.
        """
        for change in self.changes:
            key = change.partition("=")[0].strip()
            if not key.startswith(PREFIX) and key not in BASE_KEYS:
                raise SpecError(
                    f"--set {change}: a frontier reads keys of {PREFIX.rstrip('.')}, and "
                    f"{', '.join(BASE_KEYS)}"
                )
        own = target.settings()
        drawn = own.model_copy(update={"generation": own.generation.model_copy(update=ANCESTRAL)})
        values = apply_overrides(drawn.model_dump(mode="json"), list(self.changes))
        return EvaluationSpec.parse(values, origin="--set")

    def points(self, curve: CurveRuns, prompts: Prompts) -> list[GenerationSpec]:
        """The settings that a curve is measured at, the base first.

        Raises:
            SpecError: a value is none that its key can have.
        """
        base = self.evaluation(curve.targets[0]).generation
        base = base.model_copy(update={"max_new_tokens": prompts.new})
        return sampling_points(base, self.axes, curve.keys, crossed=self.crossed)


def prompts_of(curves: Sequence[CurveRuns], request: FrontierRequest) -> Prompts:
    """The prompts, which are the same for all curves.

    Raises:
        SpecError: the text gives none, or curves were trained on other text or ask for other
            lengths.
        StorageError: the prepared corpus is gone or damaged.
    """
    specs = [target.run_spec() for curve in curves for target in curve.targets]
    if len({(spec.data_fingerprint, spec.data.sequence_length) for spec in specs if spec}) > 1:
        raise SpecError("the study's runs were trained on different data, which do not compare")
    settings = [request.evaluation(curve.targets[0]) for curve in curves]
    lengths = {(each.prompt_tokens, each.generation.max_new_tokens) for each in settings}
    if len(lengths) > 1:
        raise SpecError(
            "the curves' runs have different prompt_tokens or generation.max_new_tokens; give both "
            "by --set"
        )
    ((prompt_tokens, new),) = lengths
    data = curves[0].targets[0].data()
    if data is None:
        raise SpecError("the study's runs have no data to take prompts from")
    texts = held_out(data, request.prompts).prompt_texts(request.prompts)
    new = max(1, min(new, texts.rows_NL.shape[1] - prompt_tokens))
    return Prompts.of(texts, prompt_tokens, new, asked=request.prompts)


def check_reads_tokens(reference: Target, curves: Sequence[CurveRuns]) -> None:
    """Whether a reference reads the study's tokens, which it judges as they are.

    Raises:
        SpecError: its tokenizer is another one.
    """
    vocabularies = [
        target.tokenizer().backend.get_vocab(with_added_tokens=True)
        for target in (reference, curves[0].targets[0])
    ]
    # A start token is the first id behind the vocabulary, and no token of a text.
    shared = min(len(vocabulary) for vocabulary in vocabularies)
    own, other = ({t: i for t, i in v.items() if i < shared} for v in vocabularies)
    if own != other:
        raise SpecError(
            f"--reference {reference.name}: has another tokenizer than the study, whose tokens it "
            "would take for others; give a run of the study, or none"
        )
