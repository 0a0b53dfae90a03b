"""A fit for people: tables of parameters, sentences on choice, predictions and comparisons.

Everything that comes from the table (labels, names of columns) is plain text, never markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from analysis.curve_laws import text as curves
from analysis.regressions import text as regressions
from analysis.table_fit.intervals import interval, with_interval

Shown = RichTable | Text
DIGITS = ".5g"
OPTIMA_DIGITS = ".4g"  # five columns of numbers and their intervals


def shown(result: Mapping[str, Any]) -> Iterator[Shown]:
    """Everything but the warnings, group by group."""
    if "conventions" in result:
        yield from conventions(result)
        return
    level, groups = result["level"], result.get("groups", {"": result})
    for name, fitted in groups.items():
        title = f"{name} {fitted['law']}, {fitted['points']} points".strip()
        if "parameters" in fitted:
            yield parameters(title, fitted, level)
        if "optima" in fitted.get("diagnostics", {}):
            yield optima_table(f"{name} optima".strip(), fitted["diagnostics"]["optima"])
        for line in lines(fitted):
            yield Text(f"{name}: {line}" if name else line)
    if "shared" in result:
        title = f"{', '.join(result['shared']['shared'])} in common"
        yield parameters(title, result["shared"], level)
        yield from (Text(line) for line in sharing(result["shared"]["test"]))
    for pair, numbers in result.get("comparison", {}).items():
        yield Text(f"{pair}: {comparison(numbers, level)}")


def parameters(title: str, fitted: Mapping[str, Any], level: float) -> RichTable:
    """Parameters and what follows from them, with intervals."""
    table = RichTable(title=Text(title))
    for column in ("parameter", "estimate", f"{100 * level:g}% interval"):
        table.add_column(column, justify="left" if column == "parameter" else "right")
    intervals = {**fitted["intervals"], **fitted.get("derived_intervals", {})}
    pinned = fitted.get("pinned", {})
    for key, value in {**fitted["parameters"], **fitted.get("derived", {})}.items():
        ends = "pinned" if key in pinned else interval(intervals.get(key))
        table.add_row(Text(key), f"{value:.6g}", Text(ends))
    return table


def conventions(result: Mapping[str, Any]) -> Iterator[Shown]:
    """One column a convention, group by group, and how far exponents lie apart."""
    rows = [row for row in result["conventions"] if "exponents" in row]
    for group in dict.fromkeys(row.get("group", "") for row in rows):
        yield _side_by_side(group, [row for row in rows if row.get("group", "") == group])
    for group, spread in result["spread"].items():
        where = "" if group == "all" else f"{group}: "
        for name, (low, high) in spread.items():
            yield Text(f"{where}{name} is {low:.4g} to {high:.4g} by convention")


def _side_by_side(group: str, rows: list[Mapping[str, Any]]) -> RichTable:
    table = RichTable(title=Text(f"{group} conventions side by side".strip()))
    table.add_column("exponent")
    for row in rows:
        columns = {"N": row["n"], "C": row["flops"]}
        label = "\n".join(f"{name} = {value}" for name, value in columns.items() if value)
        table.add_column(Text(label), justify="right")
    table.add_row("law", *(Text(row["law"]) for row in rows))
    for name in dict.fromkeys(name for row in rows for name in row["exponents"]):
        cells = [
            with_interval(row["exponents"][name], row["intervals"].get(name), ".3g")
            if name in row["exponents"]
            else "–"
            for row in rows
        ]
        table.add_row(name, *map(Text, cells))
    table.add_row("error held out", *(Text(_score(row["held_out"])) for row in rows))
    return table


def _splits(count: int) -> str:
    return "1 split" if count == 1 else f"{count} splits"


def _score(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    if "parameters_ratio" in found:
        return f"N* x {found['parameters_ratio']:.3f}"
    folds = f", {_splits(found['folds'])}" if "folds" in found else ""
    return f"{found['mean_absolute_error']:.3%} ({found['points']} points{folds})"


def lines(fitted: Mapping[str, Any]) -> Iterator[str]:
    """The choice of the law, predictions and accuracy of one group."""
    if fitted["law"] == "annealing":
        yield from curves.lines(fitted)
        return
    if "formula" in fitted:
        yield fitted["formula"]
    yield from regressions.lines(fitted)
    if "choice" in fitted:
        yield from choice(fitted["choice"])
    if "held_out" in fitted:
        yield held_out(fitted["held_out"])
    for each in fitted.get("predictions", []):
        yield prediction(each)
        if "serving" in each:
            yield serving(each["serving"])
    built = fitted.get("prediction_intervals")
    if built and built["folds"]:
        yield (
            f"prediction intervals: refits, a run's own noise, and {built['widening']:.3g} times "
            "that beyond the data, for the law's own misfit (tested on "
            f"{built['held_out_points']} predictions of larger budgets in {built['folds']} splits; "
            f"unwidened they hold {built['share_held_without_widening']:.0%})"
        )
    if "accuracy" in fitted:
        yield from accuracy(fitted["accuracy"])


def sharing(test: Mapping[str, Any] | None) -> Iterator[str]:
    """Whether the groups' own parameters are needed."""
    if test is not None:
        freedom = "{} and {}".format(*test["degrees_of_freedom"])
        verdict = "is rejected" if test["rejected"] else "is not rejected"
        yield (
            f"having them in common {verdict}: F = {test['F']:.3g} with {freedom} degrees of "
            f"freedom, p = {test['p']:.2g} (least squares of log loss)"
        )


def choice(found: Mapping[str, Any]) -> Iterator[str]:
    """Laws in the order of their errors on larger budgets."""
    scores = found["rolling_origin"]
    errors = ", ".join(
        f"{law} {score['mean_absolute_error']:.2%} ({_splits(score['folds'])})"
        for law, score in scores.items()
    )
    if found["not_judged"]:
        errors += f"; too few budgets to judge {', '.join(found['not_judged'])}"
    if "usual" in found:
        usual, taken = found["usual"], found["taken"]
        yield f"mean error on larger budgets than were fitted: {errors}; " + (
            f"{taken} is the usual law, and none is better by more than two standard errors"
            if taken == usual
            else f"{taken} is better than the usual {usual} by more than two standard errors and "
            f"takes its place (--law {usual} keeps it)"
        )
        return
    yield f"chosen by the mean error on larger budgets than were fitted: {errors}"
    combined = found.get("combination")
    if combined:
        weights = ", ".join(f"{law} {weight:.2f}" for law, weight in combined["weights"].items())
        yield f"a mean of laws did better: {combined['mean_absolute_error']:.2%} with {weights}"


def prediction(found: Mapping[str, Any]) -> str:
    """One prediction in a sentence."""
    loss = f"{found['loss']:{DIGITS}}" if "loss" in found else "not known"
    text = f"prediction at {place(found)}: loss {loss}"
    if "confidence_interval" in found:
        text += f" (curve {interval(found['confidence_interval'])}"
    if "prediction_interval" in found:
        text += f", a new run {interval(found['prediction_interval'])}"
    text += ")" if "confidence_interval" in found else ""
    for name, symbol in (("parameters", "N*"), ("tokens", "D*")):
        if name in found:
            text += f", {symbol} {with_interval(found[name], found.get(f'{name}_interval'))}"
    if "near_optimal" in found:
        near = found["near_optimal"]
        ends = interval(near["parameters"], ".3g")
        text += f", N from {ends} within {near['within']:.1%} of the loss"
    beyond = found.get("extrapolation", 0.0)
    return text + (f"; {beyond:.3g} times the largest compute" if beyond > 1 else "")


def serving(found: Mapping[str, Any]) -> str:
    """What serving so many tokens makes of the optimum."""
    size, tokens = (
        with_interval(found[name], found.get(f"{name}_interval"), ".4g")
        for name in ("parameters", "tokens")
    )
    by_time = found["training_mfu"] != found["serving_mfu"] or "device_hours" in found
    unit = "device time" if by_time else "FLOPs"
    saving = with_interval(found["saving"], found.get("saving_interval"), ".1%")
    text = (
        f"the same loss with {found['tokens_served']:.4g} tokens served: N {size}, D {tokens}, "
        f"training {found['training_flops']:.4g} and serving {found['serving_flops']:.4g} FLOPs, "
        f"which saves {saving} of the {unit} of the compute-optimal model"
    )
    if "device_hours" in found:
        text += "; device-hours: " + _parts(found["device_hours"])
    return text + (f"; cost: {_parts(found['cost'])}" if "cost" in found else "")


def _parts(found: Mapping[str, float]) -> str:
    return (
        f"{found['training']:.4g} + {found['serving']:.4g} "
        f"(compute-optimal {found['compute_optimal']:.4g})"
    )


def held_out(found: Mapping[str, Any]) -> str:
    """How the law predicts the rows that it was not fitted to."""
    inside = found.get("share_inside_95%_interval")
    text = (
        f"held out from C = {found['from']:.4g}: {found['points']} points, mean error "
        f"{found['mean_absolute_error']:.3%}, mean signed error {found['signed_error']:+.3%}"
    )
    if inside is None:
        return text
    return text + f", {inside:.0%} inside the 95% interval of new runs"


def place(found: Mapping[str, Any]) -> str:
    """n=..., d=... or c=..., as it was asked for."""
    return ", ".join(f"{name}={found[name]:g}" for name in ("n", "d", "c", "u") if name in found)


def accuracy(found: Mapping[str, Any]) -> Iterator[str]:
    """The sigmoid and what it predicts."""
    values, ends = found["parameters"], found["intervals"]
    named = ", ".join(
        f"{name} {with_interval(value, ends.get(name))}" for name, value in values.items()
    )
    yield f"accuracy by a sigmoid of the loss, {found['points']} points: {named}"
    for each in found.get("predictions", []):
        text = (
            f"accuracy at {place(each)}: {each['accuracy']:.4f} through loss "
            f"{each['loss']:{DIGITS}}"
        )
        if "low" in each:
            text += (
                f" (expected {interval([each['low'], each['high']])}, a new run "
                f"{interval(each['prediction_interval'])})"
            )
        yield text


def comparison(found: Mapping[str, Any], level: float) -> str:
    """Who needs less compute, and by how much."""
    if "at_loss" not in found:
        return profile_comparison(found)
    text = bounded(found) if found["multiplier"] is None else multiplied(found, level)
    for name, each in found.get("difference", {}).items():
        text += f"; {name} differs by {with_interval(each['estimate'], each['interval'], '.3g')}"
    crossing = found.get("crossover")
    return text + ("" if crossing is None else f"; {crossed(crossing)}")


def multiplied(found: Mapping[str, Any], level: float) -> str:
    """The multiplier at a loss that both groups reach."""
    times, word, ends = regressions.less_or_more(found["multiplier"], found["interval"])
    text = (
        f"{found['second']} needs {times:.4g} times {word} compute than "
        f"{found['first']} for loss {found['at_loss']:{DIGITS}}"
    )
    return text + (f" ({100 * level:g}% interval {interval(ends)})" if ends else "")


def bounded(found: Mapping[str, Any]) -> str:
    """One side of the multiplier, where the groups reach no loss in common."""
    first, second, ends = found["first"], found["second"], found["interval"]
    leads = found["bound"] == "at least"
    times = ends[0] if leads else 1 / ends[1]
    better, worse = (second, first) if leads else (first, second)
    sure = found["supported_by"]
    support = "" if sure is None else f" ({sure:.0%} of the refits agree on the order)"
    text = f"{better} needs at least {times:.3g} times less compute than {worse} for loss "
    text += f"{found['at_loss']:{DIGITS}}{support}"
    if times > 1:
        return text
    return text + f", which says nothing: {better} lacks runs of less compute than {worse} has"


def crossed(crossing: Mapping[str, Any]) -> str:
    """Where two curves cross."""
    text = f"the curves cross at {with_interval(crossing['compute'], crossing['interval'], '.3g')}"
    text += " FLOPs"
    if crossing["share_of_refits"] == crossing["share_of_refits"]:
        text += f" (in {crossing['share_of_refits']:.0%} of the refits)"
    if crossing["beyond"] > 1:
        text += f", {crossing['beyond']:.3g} times beyond what both were measured at"
    return text


def optima_table(title: str, optima: list[dict[str, Any]]) -> RichTable:
    """One row a budget: its optimum with intervals, and what it rests on."""
    table = RichTable(title=Text(title))
    for column in ("C", "N*", "D*", "loss", "fitted sizes", "note"):
        table.add_column(column, justify="left" if column == "note" else "right")
    for each in optima:
        cells = [f"{each['compute']:{OPTIMA_DIGITS}}"]
        if each["trouble"] is None:
            names = ("parameters", "tokens", "loss")
            cells += [
                with_interval(each[name], each.get(f"{name}_interval"), OPTIMA_DIGITS)
                for name in names
            ]
            cells.append(f"{each['sizes']}: {each['smallest']:.3g} to {each['largest']:.3g}")
        else:
            cells += ["–", "–", "–", str(each["sizes"])]
        table.add_row(*map(Text, cells), Text(each["trouble"] or ""))
    return table


def profile_comparison(found: Mapping[str, Any]) -> str:
    """Difference of the exponents of size, and the multiplier."""
    difference = found["difference"]
    by = with_interval(difference["estimate"], difference["interval"], OPTIMA_DIGITS)
    return f"{found['multiplier']['meaning']}; a differs by {by}"
