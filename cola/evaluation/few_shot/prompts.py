"""The few-shot prompts of the public release: what goes before an item, and how options are shown.

White space is part of a prompt: a model's continuation begins behind the cue, without a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase


def with_options(question: str, choices: Sequence[str], cue: str = "Answer:") -> str:
    """The question, a line `(A) ...` for each choice, and the cue on the last line."""
    lines = [f"({ascii_uppercase[place]}) {choice}" for place, choice in enumerate(choices)]
    return "\n".join([question, *lines, cue])


def demonstrated(*pairs: tuple[str, str]) -> str:
    """Prompts with their answers, each a paragraph."""
    return "".join(f"{prompt} {answer}\n\n" for prompt, answer in pairs)


MMLU = demonstrated(
    (
        with_options(
            "Question: Which gas do plants absorb from the air during photosynthesis?",
            ["Oxygen", "Carbon dioxide", "Nitrogen", "Hydrogen"],
        ),
        "Carbon dioxide",
    ),
    (
        with_options(
            "Question: A triangle has angles 50 degrees and 60 degrees. What is the third angle?",
            ["60 degrees", "70 degrees", "80 degrees", "90 degrees"],
        ),
        "70 degrees",
    ),
)

# Its questions stand behind their contexts, which the release leaves out of the items themselves.
SIQA = demonstrated(
    (
        with_options(
            "Question: Jordan wanted to tell a joke to his friends. "
            "What does Jordan need to do before this?",
            ["ignore his friends", "think of a funny story", "leave the room"],
        ),
        "think of a funny story",
    ),
    (
        with_options(
            "Question: Kai helped his neighbor carry heavy groceries inside. "
            "How would the neighbor feel?",
            ["angry", "grateful", "scared"],
        ),
        "grateful",
    ),
)

# The data set has this question in its validation split too, behind the first 1,000.
SQUAD = demonstrated(
    (
        "Context: The Normans (Norman: Nourmands; French: Normands; Latin: Normanni) were the "
        "people who in the 10th and 11th centuries gave their name to Normandy, a region in "
        "France. They were descended from Norse raiders and pirates from Denmark, Iceland and "
        "Norway.\nQuestion: In what country is Normandy located?\nAnswer:",
        "France",
    ),
)

STORY_CLOZE = demonstrated(
    (
        with_options(
            "Story: I wanted to make an omelet. I cracked two eggs into a bowl and whisked them. "
            "Then I poured them into a hot pan.",
            ["I ate a delicious omelet for breakfast.", "I decided to order a pizza instead."],
            cue="End:",
        ),
        "I ate a delicious omelet for breakfast.",
    ),
    (
        with_options(
            "Story: The runner tied his shoes tight. He sprinted as fast as he could during the "
            "race. He crossed the finish line first.",
            ["He was sad that he lost the race.", "He won the gold medal."],
            cue="End:",
        ),
        "He won the gold medal.",
    ),
)

OBQA = demonstrated(
    (
        with_options(
            "Question: Which tool is best for tightening a screw?",
            ["spoon", "hammer", "screwdriver", "paintbrush"],
        ),
        "screwdriver",
    ),
    (
        with_options(
            "Question: What do plants absorb from the air during photosynthesis?",
            ["carbon dioxide", "oxygen", "helium", "salt"],
        ),
        "carbon dioxide",
    ),
)

RACE_INSTRUCTION = "Read the following article and answer the question.\n\n"
RACE = RACE_INSTRUCTION + demonstrated(
    (
        with_options(
            "Article: Mary went to the store to buy some fruits. She bought five apples and two "
            "oranges. She paid 5 dollars in total. What did Mary buy?\nOptions:",
            ["Bananas", "Apples and oranges", "Grapes", "Watermelon"],
        ),
        "Apples and oranges",
    ),
)

HELLASWAG = demonstrated(
    (
        with_options(
            "Context: The girl puts the bread into the toaster and pushes the lever down. "
            "The bread",
            [
                "becomes a slice of pizza.",
                "starts to toast and turn brown.",
                "disappears immediately.",
                "turns into a glass of water.",
            ],
        ),
        "starts to toast and turn brown.",
    ),
    (
        with_options(
            "Context: The goalkeeper sees the ball coming towards the net. He dives and",
            [
                "catches the ball with his hands.",
                "starts dancing in the field.",
                "opens a laptop to check email.",
                "runs away from the stadium.",
            ],
        ),
        "catches the ball with his hands.",
    ),
)
