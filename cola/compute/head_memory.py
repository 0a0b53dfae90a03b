"""How the output head's work is divided, and what memory it then takes (torch-free).

See `cola.models.head`, which holds whole logits only where there are few of them.
"""

from __future__ import annotations

from cola.compute.activations import Precision, logit_bytes

# Logits that are held whole, 134 MB in float32: dividing so few saves nothing that matters.
WHOLE = 2**25
CHUNK = {"cpu": 2**25, "cuda": 2**27}  # logits of a chunk; 2^27 are 268 MB in bfloat16
PIECE = {"cpu": 2**22, "cuda": 2**25}  # of these in the softmax at once, in float32
BYTES = {"float32": 4, "bfloat16": 2}  # of an operand of the products


def bytes_saved(
    tokens: float, vocab_size: int, precision: Precision, *, head_parameters: int
) -> float:
    """What scoring so many tokens on a GPU keeps less than their whole logits would; at least 0."""
    if tokens * vocab_size <= WHOLE:
        return 0.0
    divided = divided_bytes(tokens, vocab_size, precision, head_parameters=head_parameters)
    return max(0.0, tokens * logit_bytes(vocab_size, precision) - divided)


def divided_bytes(
    tokens: float, vocab_size: int, precision: Precision, *, head_parameters: int
) -> float:
    """What scoring takes on a GPU at its highest beside features and weights, from above.

    The weight's float32 gradient and its copy in the type of the products, the features' gradient
    in that type, a chunk's logits, and a softmax with what it is made from.
    """
    of_operands, width = BYTES[precision], head_parameters / vocab_size
    weights = (4 + (0 if precision == "float32" else of_operands)) * head_parameters
    features = of_operands * tokens * width
    return weights + features + of_operands * CHUNK["cuda"] + 2 * 4 * PIECE["cuda"]
