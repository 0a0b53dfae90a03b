"""Made-up items of the few-shot tasks in the schema of the release, and scored generations."""

from __future__ import annotations

from cola.evaluation.few_shot.definitions import DEFINITIONS
from cola.evaluation.items import Item
from tests.unit.evaluation.taken_apart import FORMS

# Tasks of the release that are scored by the option chosen.
CHOICE_TASKS = [
    name for name, task in DEFINITIONS.items() if task.needs_choices and name != "siqa_context"
]

# Of each item: its prompt behind the task's prefix, its options, its answer.
_ITEMS: dict[str, list[tuple[str, list[str] | None, str]]] = {
    "lambada": [
        ("The kettle was cold, so Mira lit the stove and warmed the", None, "kettle"),
        ("“Is it far?”\n“Two miles,” said Per. “You can see the", None, "lighthouse"),
        ("He had lost his hat, his map and, worst of all, his", None, "mother's"),
        ("They sold bread, and more bread, and on Fridays only", None, "bread"),
    ],
    "mmlu": [
        (
            "Question: What is 12 - 5?\n(A) 5\n(B) 6\n(C) 7\n(D) 17\nAnswer:",
            ["5", "6", "7", "17"],
            "7",
        ),
        (
            "Question: A list is sorted if\n(i) it is empty, or\n(ii) no item is smaller than "
            "the one before it.\n(A) (i) only\n(B) (ii) only\n(C) both\n(D) neither\nAnswer:",
            ["(i) only", "(ii) only", "both", "neither"],
            "both",
        ),
        (
            "Question: Ice floats because it is\n(A) lighter than water of its volume\n(B) cold\n"
            "(C) white\n(D) hard\nAnswer:",
            ["lighter than water of its volume", "cold", "white", "hard"],
            "lighter than water of its volume",
        ),
        (
            "Question: Which of them is prime?\n(A) 21\n(B) 27\n(C) 33\n(D) 37\nAnswer:",
            ["21", "27", "33", "37"],
            "37",
        ),
    ],
    "siqa": [
        (
            "Question: How would Ola feel afterwards?\n(A) proud\n(B) cross\n(C) bored\nAnswer:",
            ["proud", "cross", "bored"],
            "proud",
        ),
        (
            "Question: What will Kim want to do next?\n(A) sit by the fire\n(B) swim home\n"
            "(C) Sell the boat\nAnswer:",
            ["sit by the fire", "swim home", "Sell the boat"],
            "Sell the boat",
        ),
        (
            "Question: Why did Ben do this?\n(A) for the prize\n(B) for his sister\n(C) by mistake"
            "\nAnswer:",
            ["for the prize", "for his sister", "by mistake"],
            "for his sister",
        ),
    ],
    "squad": [
        (
            "Context: The mill of Aske was built in 1731 by two brothers.\nQuestion: When was the "
            "mill built?\nAnswer:",
            None,
            "1731",
        ),
        (
            "Context: The mill has 3 floors – one for storage.\nQuestion: What is on the first "
            "floor?\nAnswer:",
            None,
            "storage",
        ),
        (
            "Context: It burned down in the dry summer of 1902.\nQuestion: In what kind of summer "
            "did it burn down?\nAnswer:",
            None,
            "a dry one",
        ),
    ],
    "story_cloze": [
        (
            "Story: Nils planted a bean. He gave it water. It grew to the roof. He climbed it.\n"
            "(A) He saw the whole village.\n(B) He fell asleep in the cellar.\nEnd:",
            ["He saw the whole village.", "He fell asleep in the cellar."],
            "He saw the whole village.",
        ),
        (
            "Story: Ada's bus was late. She began to walk. It rained. The bus passed her.\n"
            "(A) She was dry and pleased.\n(B) She arrived wet, and laughed.\nEnd:",
            ["She was dry and pleased.", "She arrived wet, and laughed."],
            "She arrived wet, and laughed.",
        ),
    ],
    "obqa": [
        (
            "Question: A shadow needs\n(A) rain\n(B) light\n(C) wind\n(D) salt\nAnswer:",
            ["rain", "light", "wind", "salt"],
            "light",
        ),
        (
            "Question: A magnet holds\n(A) a wooden spoon\n(B) a glass\n(C) a nail\n(D) a leaf\n"
            "Answer:",
            ["a wooden spoon", "a glass", "a nail", "a leaf"],
            "a nail",
        ),
    ],
    "race": [
        (
            "Article: Tove keeps bees. She sells honey at the gate. What does Tove sell?\nOptions:"
            "\n(A) bees\n(B) honey\n(C) gates\n(D) hats\nAnswer:",
            ["bees", "honey", "gates", "hats"],
            "honey",
        ),
        (
            "Article: Snow _ all night.\nOptions:\n(A) fell\n(B) sang\n(C) ate\n(D) slept\nAnswer:",
            ["fell", "sang", "ate", "slept"],
            "fell",
        ),
    ],
    "hellaswag": [
        (
            "Context: A woman holds a saw. she\n(A) cuts the plank.\n(B) drinks the plank.\n"
            "(C) sings to it.\n(D) is a plank.\nAnswer:",
            ["cuts the plank.", "drinks the plank.", "sings to it.", "is a plank."],
            "cuts the plank.",
        ),
        (
            "Context: [header] How to fold a kite [step] Take a square. you\n(A) eat it.\n"
            "(B) lose it.\n(C) fold it, twice.\n(D) wash it.\nAnswer:",
            ["eat it.", "lose it.", "fold it, twice.", "wash it."],
            "fold it, twice.",
        ),
    ],
}
# A generation for each item, and whether it is right by the release's rules.
GENERATIONS: dict[str, list[tuple[str, bool]]] = {
    "lambada": [
        (" Kettle, which sang", True),  # the first word counts, without case and punctuation
        ("\n\n“lighthouse”\nfrom here", True),  # lines without a word are passed over
        (" mother", False),
        (" the bread", False),
    ],
    "mmlu": [
        (" 7\n\nQuestion: What is 3?", True),
        (" I think of (i) only, not of both or neither.", False),  # three options are in it
        (" Lighter than watr of its volume.", True),  # the most similar option, at 0.98
        (" The answer is (C)", False),
    ],
    "siqa": [
        (" (a)", True),
        (" swim home, and sell the boat. Final answer: C.", True),  # the last cue counts
        (" D", False),  # there is no fourth option
    ],
    "squad": [
        (" 1731.\nMore", True),
        (" the storage", False),  # an article counts
        (" A DRY   one!", True),
    ],
    "story_cloze": [
        (" he saw the whole village\n\nStory: Next", True),
        (" She arrived wet and laughed. Then", False),
    ],
    "obqa": [
        (" B. Light is needed", True),  # the one option that is contained in it
        ("", False),
    ],
    "race": [
        (" She sells honey at the gate to everyone who comes by on Sundays", True),
        (" It sang", False),
    ],
    "hellaswag": [
        (" cuts the planks.", False),
        (" fold it twice", True),
    ],
}


def made_up_items(task: str) -> list[Item]:
    """The task's items; their ids count from the definition's first number."""
    prefix, first = FORMS[task][0], DEFINITIONS[task].first_number
    return [
        Item(
            id=f"q{number}" if task == "squad" else number,
            prompt=prefix + tail,
            answer=answer,
            choices=choices,
        )
        for number, (tail, choices, answer) in enumerate(_ITEMS[task], start=first)
    ]
