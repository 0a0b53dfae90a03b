"""What the families of a study have in common, measured: data order, compute, parameters; how their
settings were tuned, and the rates with which they trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.plotting.variants import by_curve, styles_of, variants_of
from cola.compute.ladders import ladder_sentences
from cola.families.registry import curve_label
from cola.tuning.record import TuningRecord
from cola.tuning.text import TunedCurve, tuning_sentences

CLOSE = 0.05  # chosen: what lies less apart, as a share, is called matched
UNSET = "none"  # of a setting that a run does not have
BATCH = "training.batch_sequences"
RATE = "training.optimizer.learning_rate"
STAGES = "training.stages."
NO_RATE = ("None", "none")  # of a stage without a rate of its own


def common_order(orders: Mapping[str, Mapping[str, str]]) -> tuple[int, bool]:
    """Compare the runs' digests of data order at the largest number of sequences all consumed.

    Returns that number (0: nothing in common) and whether the digests are equal there.
    """
    counts = set.intersection(*(set(order) for order in orders.values())) if orders else set()
    if not counts:
        return 0, False
    largest = max(counts, key=int)
    return int(largest), len({order[largest] for order in orders.values()}) == 1


def matching_statements(runs: pd.DataFrame) -> list[str]:
    """Sentences on what is held equal and by how much the rest differs."""
    finished = runs[runs["status"] == "finished"]
    if finished.empty:
        return ["No run is finished yet, so the matching is not known."]
    compute = finished["compute"].iloc[0]
    unit = finished["unit"].iloc[0]
    statements = [_order_statement(finished), _budget_statement(finished, compute)]
    statements += ladder_statements(finished)
    statements.append(_parameter_statement(finished))
    other = "nominal" if compute == "executed" else "executed"
    unmatched = [compute, other] if unit != "flops" else [other]
    for name in unmatched:
        statements.append(
            _ratio_statement(finished, f"train_flops_{name}", f"{name} training FLOPs")
        )
    if unit != "tokens":
        statements.append(_ratio_statement(finished, "tokens", "training tokens"))
    statements += _training_statements(finished)
    retried = finished[finished["retry"] > 0]
    if not retried.empty:
        names = ", ".join(sorted(retried["name"]))
        statements.append(
            f"Not matched: the learning rate of {names}, which was lowered after the run had "
            "diverged at the planned one."
        )
    return statements


def matched_and_not(finished: pd.DataFrame) -> tuple[list[str], list[str]]:
    """What the curves have in common and what not, each in a few words; what a single curve leaves
    nothing to match of is in neither."""
    if finished["variant"].nunique() < 2:
        return ["one curve: nothing is compared"], []
    matched, unmatched = list[str](), list[str]()
    count, equal = common_order(_orders(finished))
    (matched if count and equal else unmatched).append("data and their order")
    compute, unit = finished["compute"].iloc[0], finished["unit"].iloc[0]
    matched.append(f"training compute ({compute} FLOPs)" if unit == "flops" else f"training {unit}")
    if ladder_statements(finished):
        unmatched.append("the ladders of budgets")
    for kind, apart in _parameter_spread(finished).items():
        close = apart < CLOSE
        within = f"{kind} parameters" + (f" (within {apart:.1%})" if apart >= 5e-4 else "")
        (matched if close else unmatched).append(within if close else f"{kind} parameters")
    top = _largest(finished)
    columns = {"tokens": "training tokens"} if unit != "tokens" else {}
    columns |= {f"train_flops_{n}": f"{n} FLOPs" for n in ("executed", "nominal")
                if n != compute or unit != "flops"}  # fmt: skip
    for column, name in columns.items():
        means = top.groupby("variant")[column].mean()
        if means.max() > (1 + CLOSE) * means.min():
            unmatched.append(name)
    unmatched += [key.rpartition(".")[2].replace("_", " ") for key in _differing(finished)]
    return matched, list(dict.fromkeys(unmatched))


def _orders(finished: pd.DataFrame) -> dict[str, Mapping[str, str]]:
    return {str(run["run_id"]): run["data_order"] for _, run in finished.iterrows()}


def _order_statement(finished: pd.DataFrame) -> str:
    orders = _orders(finished)
    count, equal = common_order(orders)
    if count == 0:
        return "Data order: the runs have no digest in common, so equality is NOT shown."
    if equal:
        return (
            f"Data order: equal in all {len(orders)} runs (digests of the first {count:,} "
            "sequences agree; every run reads the same sequences in the same order)."
        )
    return f"Data order: NOT equal within the first {count:,} sequences."


def ladder_statements(finished: pd.DataFrame) -> list[str]:
    """Each curve's budgets, and where pairs of curves have equal ones; none where all have."""
    labels = {
        variant: curve_label(str(variant), str(mine["family"].iloc[0]))
        for variant, mine in by_curve(finished)
    }
    amounts = {
        labels[variant]: [float(amount) for amount in mine["amount"]]
        for variant, mine in by_curve(finished)
    }
    unit = finished["unit"].iloc[0]
    return ladder_sentences(
        amounts, f"{finished['compute'].iloc[0]} FLOPs" if unit == "flops" else unit
    )


def _budget_statement(finished: pd.DataFrame, compute: str) -> str:
    unit = finished["unit"].iloc[0]
    if unit != "flops":
        return (
            f"Compute: runs are matched in {unit}, over all of a family's stages; training FLOPs "
            f"follow, and curves are fitted to {compute} ones."
        )
    used = finished[f"train_flops_{compute}"]
    short = float((1 - used / finished["budget"]).max())
    return (
        f"Compute: budgets count {compute} training FLOPs; every run stops at the last whole step "
        f"its budget pays for (at most {short:.2%} of the budget is left unspent)."
    )


def _parameter_statement(finished: pd.DataFrame) -> str:
    spread = _parameter_spread(finished)
    if not spread:
        return (
            "Not matched: parameters, as families have ladders of their own without a budget "
            "in common."
        )
    where = "at every rung" if _is_one_ladder(finished) else "at every budget that several have"
    apart = [f"{kind} parameters lie within {value:.1%}" for kind, value in spread.items()]
    return (
        f"Parameters: {where} the families' {' and their '.join(apart)} of each other (core: "
        "all but token embeddings and output head)."
    )


def _parameter_spread(finished: pd.DataFrame) -> dict[str, float]:
    """How far core and total parameters lie apart at most, as a share, where curves share a budget;
    empty where they share none."""
    place = ["rung"]
    if not _is_one_ladder(finished):
        # Which of a curve's sizes at its budget a run has.
        rank = finished.groupby(["variant", "amount"])["core_parameters"].rank("dense")
        finished, place = finished.assign(rank=rank), ["amount", "rank"]
        finished = finished[finished.groupby(place)["variant"].transform("nunique") > 1]
        if finished.empty:
            return {}
    return {
        kind: float(
            finished.groupby(place)[f"{kind}_parameters"].agg(lambda n: n.max() / n.min()).max() - 1
        )
        for kind in ("core", "total")
    }


def _is_one_ladder(finished: pd.DataFrame) -> bool:
    """Whether the curves' budgets are those of one ladder, or its multiples: one rung in common
    does not tell multiples from ladders of their own."""
    amounts = finished.pivot_table(index="rung", columns="variant", values="amount")
    ratios = amounts.div(amounts.iloc[:, 0], axis=0)
    constant = (ratios.max() / ratios.min()).max() < 1 + 1e-6
    equal = (ratios - 1).abs().max().max() < 1e-6
    return bool(equal or (constant and (ratios.count() > 1).all()))


def _ratio_statement(finished: pd.DataFrame, column: str, name: str) -> str:
    """How far a quantity that is not matched lies apart at each curve's largest rung."""
    top = _largest(finished)
    means, styles = top.groupby("variant")[column].mean(), styles_of(variants_of(top))
    shown = ", ".join(f"{style.label} {means[name]:.3g}" for name, style in styles.items())
    return f"Not matched: {name} (top rung: {shown})."


def _largest(finished: pd.DataFrame) -> pd.DataFrame:
    """The runs of each curve's largest rung."""
    return finished[finished["rung"] == finished.groupby("variant")["rung"].transform("max")]


def _training_statements(finished: pd.DataFrame) -> list[str]:
    """The training settings that differ between curves, with their values at the largest rung."""
    differing = [
        f"{key} ({', '.join(f'{name} {value}' for name, value in found.items())})"
        for key, found in _differing(finished).items()
    ]
    return [f"Not matched: {'; '.join(differing)}."] if differing else []


def _differing(finished: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Training settings in which curves differ at their largest rungs: each curve's value."""
    largest = _largest(finished)
    settings = {
        curve_label(variant, str(mine["family"].iloc[0])): mine["training"].iloc[0]
        for variant, mine in by_curve(largest)
    }
    found = {
        key: {name: values.get(key, UNSET) for name, values in settings.items()}
        for key in sorted({key for values in settings.values() for key in values})
    }
    return {key: values for key, values in found.items() if len(set(values.values())) > 1}


def tuning_statements(spec: Mapping[str, Any], runs: pd.DataFrame) -> list[str]:
    """By the record that the study took, and by its runs; the author's word without a record.

    Raises:
        SpecError: the saved study's record is damaged.
    """
    finished = runs[runs["status"] == "finished"]
    if finished.empty:
        return []
    values = spec.get("tuning")
    record = None if values is None else TuningRecord.parse(values, origin="the saved study")
    curves = {
        str(variant): TunedCurve(
            curve_label(str(variant), str(group["family"].iloc[0])), sorted(set(group["budget"]))
        )
        for variant, group in by_curve(finished)
    }
    declared = str((spec.get("matching") or {}).get("tuning", "none"))
    rates = [
        rates_sentence(curve.label, finished[finished["variant"] == name])
        for name, curve in curves.items()
    ]
    return [*tuning_sentences(record, curves, declared), *rates]


def rates_sentence(label: str, runs: pd.DataFrame) -> str:
    """Peak rates (by stage) and batches of a curve's finished runs, by budget."""
    by_budget = runs.drop_duplicates("budget").sort_values("budget")
    each = [
        f"{run['budget']:.3g}: {', '.join(rates_of(run['training']))}, batch "
        f"{run['training'].get(BATCH, '?')}"
        for _, run in by_budget.iterrows()
    ]
    return f"{label} trained at peak rates {'; '.join(each)}."


def rates_of(training: Mapping[str, str]) -> Iterator[str]:
    """The rates of a run: of its stages that have their own, and the one of all others."""
    stages = {
        key.split(".")[2]: value
        for key, value in training.items()
        if key.startswith(STAGES) and key.endswith(".learning_rate") and value not in NO_RATE
    }
    for stage, value in stages.items():
        yield f"{stage} {float(value):.3g}"
    rate = f"{float(training[RATE]):.3g}" if RATE in training else "?"
    yield f"{rate} in stages without their own" if stages else rate
