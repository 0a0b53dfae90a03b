"""Words of the pages that a reader may not know: what they mean, where they first stand."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

# The longest forms of a word that stand for it; the first one heads its definition.
MEANINGS: dict[tuple[str, ...], str] = {
    ("NLL",): "Negative log-likelihood: what a model pays to encode held-out text, per token; the "
    "lower the better.",
    ("nats per token", "nats/token", "nats a token"): "Unit of the NLL, by the natural logarithm: "
    "1 nat is 1.44 bits.",
    ("bits per byte", "bits/byte"): "The NLL in bits over the bytes of the text: it does not "
    "depend on the tokenizer.",
    ("bound",): "At least the true NLL: the model may be better than a bound says.",
    ("estimate",): "An NLL that may lie on either side of the true one, as its solver had not "
    "converged.",
    ("exact",): "The model's own NLL, neither a bound nor an estimate.",
    ("token frequencies", "unigram"): "A guess of each token by how often it is in the training "
    "text; a model that is not better has learned nothing else.",
    ("bigram",): "A guess of each token by the token before it.",
    ("uniform",): "A guess that gives every token of the vocabulary the same probability.",
    ("executed FLOPs", "executed"): "Floating-point operations of training as they are computed, "
    "attention and all passes included.",
    ("nominal FLOPs", "nominal"): "Floating-point operations of training by the literature's "
    "count: 6 times parameters times tokens.",
    ("training compute", "compute"): "Floating-point operations (FLOPs) that training takes.",
    ("core parameters",): "All parameters but token embeddings and the output head.",
    ("rung", "ladder"): "A ladder is a study's list of budgets, a rung one of them.",
    ("gamma",): "Exponent of a power law: the loss above its floor falls as compute^-gamma.",
    ("scatter of log loss", "scatter"): "Standard deviation of the runs round their curve, as a "
    "share of the loss.",
    ("refits", "refit"): "Fits to resampled runs: intervals are what 95% of them give.",
    ("plain power laws", "plain power law"): "A power law without a floor.",
    ("floor",): "The loss that a curve approaches with unlimited compute.",
    ("95% of curves",): "Where the curve itself lies, with 95% confidence.",
    ("95% of new runs",): "Where 95% of further runs at this budget are expected.",
    ("IsoFLOP",): "Models of several sizes trained with the same compute: the best of them is the "
    "budget's optimum.",
    ("chrF",): "Overlap of character n-grams with the reference text, 0 to 100.",
    ("distinct",): "Share of n-grams of a text that are not repeated.",
    ("repetition",): "Share of n-grams of a text that stood before in it.",
    ("MAUVE",): "How alike generated and natural texts are by a model's states of them, 0 to 1: "
    "two samples of one source have about 0.95.",
    ("BrierLM",): "Score of drawn tokens against the text, 100 for certain and right.",
    ("log_snr",): "Logarithm of the latents' signal-to-noise ratio.",
    ("distortion",): "What is left of the text's NLL once the latents are known; beside it their "
    "rate, what they cost beyond their own noise.",
    ("seed", "seeds"): "A number that fixes all random draws of a run; runs that differ in it "
    "alone show how much is chance.",
    ("fANOVA",): "How much of the variance over trials a key explains by itself, by a forest.",
    ("Pareto front",): "Points that no other is at least as good as in all metrics, and better in "
    "one.",
    ("arm", "arms"): "A part of a sweep with a search of its own.",
    ("trial", "trials"): "The runs of one point of a sweep, one a seed.",
}  # fmt: skip
FORMS = {form: forms[0] for forms in MEANINGS for form in forms}
PATTERN = re.compile(
    r"(?<![\w/-])("
    + "|".join(map(re.escape, sorted(FORMS, key=len, reverse=True)))
    + r")(?![\w/-])"
)
POWER = re.compile(r"\^(-|−)?(\d+(?:\.\d+)?|gamma|b)")
# 4e+12, but not within a run's name or a path.
NUMBER = re.compile(r"(?<![\w./+-])(\d+(?:\.\d+)?)e([+-]?)0*(\d+)(?![\w-])")


def meaning(word: str) -> str:
    """The definition of a word, by its first form."""
    return next(text for forms, text in MEANINGS.items() if forms[0] == word)


def anchor(word: str) -> str:
    """Where its definition stands on a page."""
    return "word-" + re.sub(r"\W+", "-", word.lower()).strip("-")


@dataclass
class Words:
    """The words of one page, in the order in which they first stand there."""

    used: list[str] = field(default_factory=list)

    def in_prose(self, text: str) -> str:
        """HTML of a text: its powers as such, and each word that the page has not had before with
        its meaning, which shows where the mouse rests and stands at the page's end."""
        return PATTERN.sub(self._first, mathematics(text))

    def in_head(self, text: str) -> str:
        """The same of a table's head, whose words bear their meaning each time."""
        return PATTERN.sub(self._linked, mathematics(text))

    def found_in(self, text: str) -> list[str]:
        """The words of a text that have a meaning."""
        return list(dict.fromkeys(FORMS[form] for form in PATTERN.findall(text)))

    def _first(self, match: re.Match[str]) -> str:
        return match[1] if FORMS[match[1]] in self.used else self._linked(match)

    def _linked(self, match: re.Match[str]) -> str:
        word = FORMS[match[1]]
        if word not in self.used:
            self.used.append(word)
        title = html.escape(meaning(word), quote=True)
        return f'<a class="word" href="#{anchor(word)}" title="{title}">{match[1]}</a>'


def mathematics(text: str) -> str:
    """Escaped HTML of a text with its powers raised and 4e+12 as 4 times a power of ten."""
    escaped = html.escape(text, quote=False)
    raised = POWER.sub(lambda m: f"<sup>{'−' if m[1] else ''}{m[2]}</sup>", escaped)
    return NUMBER.sub(_power_of_ten, raised)


def _power_of_ten(match: re.Match[str]) -> str:
    mantissa, sign, exponent = match.groups()
    times = "" if mantissa == "1" else f"{mantissa} × "
    return f"{times}10<sup>{'−' if sign == '-' else ''}{exponent}</sup>"
