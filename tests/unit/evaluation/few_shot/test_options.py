"""Which option a generation chooses by the strict rule: exact texts first, whole words, letters."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cola.errors import SpecError
from cola.evaluation.few_shot.options import check_truth, equal_option, strict_choice, true_option
from cola.evaluation.items import Item

FORCES = ["evaporation", "friction", "gravity", "reflection"]
EVEN = ["2", "4", "6", "8"]
WORDS = ["no", "not", "ever", "always"]


@pytest.mark.parametrize(
    "choices",
    [
        ["1", "-1", "0", "2"],
        ["15", "1.5", "0.15", "150"],
        ["3/2", "-3/2", "2/3", "-2/3"],
        ["210", "2^10", "20", "10"],
        ["10²", "102", "10^2", "10^-2"],
        ["1e5", "1e-5", "1.5e5", "15e5"],
        ["5 MW", "5 mW", "5 W", "5"],
        ["50%", "50", "5%", "$50"],
        ["(R ∨ W) ⊃ B", "R ⊃ (W • B)", "(R • W) ⊃ B", "~R ⊃ (W • B)"],
        ["f(x) = -f(-x)", "f(x) = f(-x)", "f(x) = -f(x)", "f(x) = 2f(x)"],
        ["B", "A", "D", "C"],
        ["≥", "≤", "=", "<"],
        ["he", "He", "HE", "she"],
    ],
)
@pytest.mark.parametrize("form", ["{}", " {}\n", "The answer is {}", "answer: {}"])
def test_options_that_differ_in_a_sign_are_different_answers(choices: list[str], form: str) -> None:
    for place, choice in enumerate(choices):
        assert strict_choice(form.format(choice), choices).choice == place


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("−1", ["1", "-1"], 1),  # the minus sign
        ("–1.", ["1", "-1"], 1),  # an en dash
        ("(-1)", ["1", "-1"], 1),
        ("– 1", ["1", "-1"], None),  # as "- 1"
        ("x = – 1", ["1", "-1"], None),
        ("$-1$", ["1", "-1"], 1),
        (r"The answer is \(-1\).", ["1", "-1"], 1),
        (r"\boxed{-1}", ["1", "-1"], 1),
        (r"\boxed{B}", ["1", "-1"], 1),
        (r"\frac{1}{2}", [r"$\frac{1}{2}$", r"$\frac{2}{1}$"], 0),
        ("$5", ["5", "$5"], 1),
        ("$5$", ["$5", "5"], 1),
        ("from $5 to $10", ["5", "10"], None),
        ("東京。", ["東京", "京都"], 0),
        ("「京都」", ["東京", "京都"], 1),
        ("لا؟", ["نعم", "لا"], 1),
        ("1", ["-1", "0"], None),
        ("15", ["1.5", "2"], None),
        ("1024", ["1,024", "1.024"], 0),
        ("5 mw", ["5 MW", "5 mW"], None),
        ("50", ["50%", "25%"], 0),
        ("6%", EVEN, None),
        ("R ⊃ W • B", ["R ⊃ (W • B)", "(R ⊃ W) • B"], None),
        ("**Gravity.**", FORCES, 2),
        ("lighter than watr of its volume", ["lighter than water of its volume", "cold"], 0),
        ("decreases the entropy of it all", ["increases the entropy of it all", "x"], None),
        ("16 beats in the 4 bars of it all", ["15 beats in the 4 bars of it all", "x"], None),
    ],
)
def test_coarser_forms_decide_only_where_one_option_fits(
    text: str, choices: list[str], expected: int | None
) -> None:
    assert strict_choice(text, choices).choice == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1),
        ("b.", 1),
        (" (a)", 0),
        ("[C]", 2),
        ("（D）", 3),  # fullwidth
        ("**B**", 1),
        ("a) evaporation", 0),
        ("B. Friction", 1),
        ("B because of the heat", 1),
        ("A is correct.", 0),
        ("Option b", 1),
        ("option b is right", 1),
        ("answer: C", 2),
        ("The answer is a.", 0),
        ("The answer is: (c)", 2),
        ("The answer is A because it slows", 0),
        ("The answer is not B but C", 2),
        ("(A) is not correct, (B) is", 1),
        ("It must be (B)", 1),
        ("The answer is a kitchen tool", None),
        ("The answer is A tool", None),
        ("A tool", None),
        ("I think", None),
        ("I choose a book", None),
        ("the best option a person has", None),
        ("Vitamin C", None),
        ("not A", None),
        ("The answer is not A", None),
        ("It isn't (B)", None),
        ("A or B", None),
        ("A, B", None),
        ("(A) or rather (C)", None),
        ("friction (C)", None),
        ("B) gravity", None),
        ("E", None),
        ("(E)", None),
        ("А", None),  # Cyrillic
        ("é", None),
        ("e\u0301", None),
        ("c\u0327", None),
        ("d'accord", None),
        ("", None),
    ],
)
def test_a_letter_counts_where_no_word_can_stand(text: str, expected: int | None) -> None:
    assert strict_choice(text, FORCES).choice == expected


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("there are 6 legs", EVEN, 2),
        ("I counted 16 of them", EVEN, None),
        ("6.5", EVEN, None),
        ("6,000", EVEN, None),
        ("1/6", EVEN, None),
        ("minus 6", EVEN, None),
        ("6 million", EVEN, None),
        ("- 6", EVEN, None),
        ("6:30", EVEN, None),
        ("6th", EVEN, None),
        ("4 + 2 = 6", EVEN, 2),
        ("not 4, 6", EVEN, 2),
        ("6 or 8", EVEN, None),
        ("fourteen", ["two", "four"], None),
        ("twenty-four", ["two", "four"], None),
        ("twenty four", ["two", "four"], None),
        ("four hundred", ["two", "four"], None),
        ("I see four of them", ["two", "four"], 1),
        ("It has 12 months", ["2", "10", "12", "24"], 2),
        ("5 m", ["5", "5 km"], None),
        ("about 5 km away", ["5", "5 km"], 1),
        ("a cat and dog here", ["cat", "cat and dog", "dog"], 1),
        ("I know nothing of that", WORDS, None),
        ("It is not always so", WORDS, None),
        ("No, it does not", ["yes", "no"], 1),
        ("antigravity", FORCES, None),
        ("It is not gravity", FORCES, None),
        ("Neither gravity nor friction", FORCES, None),
        ("gravity is wrong", FORCES, None),
        ("not friction but gravity", FORCES, 2),
        ("Gravity. Not friction", FORCES, 2),
        ("non-metal", ["metal", "gas"], None),
        ("it was an answer to a call", ["a call", "an answer to a call"], 1),
    ],
)  # fmt: skip
def test_options_are_found_as_whole_words_the_longest_first(
    text: str, choices: list[str], expected: int | None
) -> None:
    assert strict_choice(text, choices).choice == expected


def test_what_fits_several_options_is_a_tie() -> None:
    assert strict_choice("5 mw", ["5 MW", "5 mW"]).tie
    assert strict_choice("friction and gravity", FORCES).tie
    assert not strict_choice("nothing of it", FORCES).tie


def test_the_truth_is_an_index_and_never_a_letter() -> None:
    items = [Item(id=1, prompt="", answer=a, choices=["B", "A"]) for a in ("A", " A ", "B.")]
    assert [true_option(item) for item in items] == [1, 1, 0]
    twice = Item(id=1, prompt="", answer="6", choices=["4", "6", "6"])
    assert true_option(twice) == 1
    with pytest.raises(SpecError, match="item 7: answer 'C' is none of its choices"):
        check_truth(Item(id=7, prompt="", answer="C", choices=["x", "y"]), "--items f")


TEXTS = st.text(alphabet=string.printable + "−–²½éßАＢ(（", max_size=30)


@given(TEXTS, st.lists(TEXTS, min_size=2, max_size=5))
def test_any_text_chooses_an_option_or_none(text: str, choices: list[str]) -> None:
    found = strict_choice(text, choices)
    assert found.choice is None or 0 <= found.choice < len(choices)
    assert (found.choice is None) == (found.by is None)


@given(st.lists(TEXTS, min_size=2, max_size=5), st.integers(0, 4))
def test_an_option_s_own_text_is_that_option(choices: list[str], place: int) -> None:
    assume(place < len(choices) and choices[place].strip())
    found = equal_option(choices[place], choices)
    assert found.choice is not None
    assert choices[found.choice].strip() == choices[place].strip()
    assert found.by == "exact"


@given(st.lists(TEXTS, min_size=2, max_size=5), TEXTS, st.randoms(use_true_random=False))
def test_texts_choose_the_same_in_any_order_of_options(
    choices: list[str], text: str, draw: object
) -> None:
    """Where nothing is a letter, the order of the options does not matter."""
    found = strict_choice(text, choices)
    assume(found.by != "letter" and len(set(map(str.strip, choices))) == len(choices))
    turned = list(reversed(choices))
    again = strict_choice(text, turned)
    assume(again.by != "letter" and not found.tie and not again.tie)
    chosen = None if found.choice is None else choices[found.choice]
    assert chosen == (None if again.choice is None else turned[again.choice])


@given(st.integers(2, 99), st.integers(0, 99))
def test_a_number_is_never_a_part_of_a_longer_one(number: int, more: int) -> None:
    choices = [str(number), "x", "y"]
    for text in (f"it is {number}{more} of them", f"it is {number}.{more}", f"it is 1{number} now"):
        assert strict_choice(text, choices).choice is None
    assert strict_choice(f"it is {number} of them", choices).choice == 0


def test_a_long_text_of_options_takes_no_square_of_its_length() -> None:
    before = time.process_time()
    assert strict_choice("blue green red " * 4000, ["red", "blue", "green"]).tie
    assert time.process_time() - before < 10
