"""The output head: logits, or what tokens cost in nats without whole logits.

A loss needs logits only to add up what they say of one token each, and with a large vocabulary they
are most of a step's memory. The functions below go through the tokens in chunks. Where a loss is
differentiated, each chunk's gradient is taken while its logits exist: they are computed once, and
the products are the three of a plain Linear. On CUDA the copy of the weights that 16-bit products
need anyway has zero rows added up to a multiple of MULTIPLE, as products of unaligned rows are
several times slower; their logits are -inf. Weights and gradients have the vocabulary's rows.

N tokens, C width, V vocabulary, W vocabulary and added rows, R tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from cola.compute.head_memory import CHUNK, PIECE, WHOLE
from cola.models.layers import activation_dtype

BAND = 2**24  # elements of the weight's gradient that a 16-bit product adds at once
MULTIPLE = 128  # rows of the vocabulary and of a chunk

Costs = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class HeadLayout:
    """How products with the head are divided: `chunk` tokens have their logits at a time, `piece`
    of them pass the softmax at a time, and the vocabulary is padded to a `multiple`."""

    chunk: int
    piece: int
    multiple: int = 1


@dataclass(frozen=True)
class Scored:
    """Tokens whose costs are asked of a head.

    reduction: "none" for the cost of each, "mean", or "sum" of costs times `weights_N`.
    candidates: also ask which tokens are the likeliest of the vocabulary's first `candidates`.
    layout: see `HeadLayout`; None: by size and device.
    """

    tokens_N: Tensor
    reduction: Literal["none", "mean", "sum"] = "none"
    weights_N: Tensor | None = None
    candidates: int | None = None
    layout: HeadLayout | None = None


class OutputHead(nn.Linear):
    """A Linear from features to logits of the vocabulary, which also scores tokens."""

    def forward(self, features: Tensor, scored: Scored | None = None) -> Any:
        """Logits (..., V) of features (..., C); with `scored` the costs of its tokens instead.

        Costs: nats in float32, (N,) or a scalar, of features (N, C); and (N,) bool or None.
        """
        # Costs are made inside of the module's call, around which sharded weights are gathered.
        if scored is None:
            return _logits(features, self.weight, self.bias)
        return costs(features, self.weight, self.bias, scored)


def costs(features_NC: Tensor, weight_VC: Tensor, bias_V: Tensor | None, scored: Scored) -> Costs:
    """What `OutputHead` gives for `scored`, of a head that has these weights."""
    layout = scored.layout or layout_of(len(features_NC), weight_VC)
    if layout is None:
        return _costs_of_whole(F.linear(features_NC, weight_VC, bias_V), scored)
    return _costs_in_chunks(features_NC, weight_VC, bias_V, scored=scored, layout=layout)


def as_output_head(linear: nn.Linear) -> OutputHead:
    """This very module as an output head: parameters, their names and hooks stay."""
    linear.__class__ = OutputHead
    assert isinstance(linear, OutputHead)
    return linear


def token_nll(head: OutputHead, features_BLC: Tensor, tokens_BL: Tensor) -> Tensor:
    """-log p of each token in nats, float32, in the shape of the tokens."""
    nll_N: Tensor = head(features_BLC.flatten(0, -2), Scored(tokens_BL.flatten()))[0]
    return nll_N.view_as(tokens_BL)


def judged_nll(
    head: OutputHead, features_NC: Tensor, tokens_N: Tensor, *, candidates: int
) -> tuple[Tensor, Tensor]:
    """`token_nll`, and whether a token is the likeliest of the first `candidates`: (N,) each."""
    nll_N, likeliest_N = head(features_NC, Scored(tokens_N, candidates=candidates))
    return nll_N, likeliest_N


def mean_nll(head: OutputHead, features_BLC: Tensor, tokens_BL: Tensor) -> Tensor:
    """The mean of -log p over the tokens in nats: a scalar in float32."""
    scored = Scored(tokens_BL.flatten(), "mean")
    nll: Tensor = head(features_BLC.flatten(0, -2), scored)[0]
    return nll


def mean_nll_and_accuracy(
    head: OutputHead, features_BLC: Tensor, tokens_BL: Tensor
) -> tuple[Tensor, Tensor]:
    """`mean_nll`, and the fraction of the tokens that are the likeliest."""
    scored = Scored(tokens_BL.flatten(), "mean", candidates=head.out_features)
    nll, likeliest_N = head(features_BLC.flatten(0, -2), scored)
    return nll, likeliest_N.float().mean()


def weighted_nll(
    head: OutputHead, features_BLC: Tensor, tokens_BL: Tensor, *, weights_BL: Tensor
) -> Tensor:
    """The sum of -log p times weights in nats: a scalar in float32."""
    scored = Scored(tokens_BL.flatten(), "sum", weights_BL.flatten())
    nll: Tensor = head(features_BLC.flatten(0, -2), scored)[0]
    return nll


def layout_of(tokens: int, weight: Tensor) -> HeadLayout | None:
    """The layout for so many tokens on the weight's device; None: their logits are held whole."""
    vocabulary = len(weight)
    if tokens * vocabulary <= WHOLE:
        return None
    kind = weight.device.type if weight.device.type in CHUNK else "cpu"
    chunk = max(1, CHUNK[kind] // vocabulary // MULTIPLE) * MULTIPLE
    piece = max(1, PIECE[kind] // vocabulary)
    padded = kind == "cuda" and activation_dtype(weight).itemsize == 2
    return HeadLayout(chunk, piece, MULTIPLE if padded else 1)


def strided_logits(features: Tensor, weight: Tensor, bias: Tensor | None, multiple: int) -> Tensor:
    """`F.linear` without a gradient, its rows a multiple of `multiple` apart in memory.

    Rows are what products of 16-bit numbers need aligned; the weight is not copied for it.
    """
    rows, vocabulary = features.flatten(0, -2), len(weight)
    wide = rows.new_empty(len(rows), vocabulary + -vocabulary % multiple)
    logits = wide[:, :vocabulary]
    if bias is None:
        torch.mm(rows, weight.t(), out=logits)
    else:
        torch.addmm(bias, rows, weight.t(), out=logits)
    return logits.view(*features.shape[:-1], vocabulary)


def _logits(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    aligned = len(weight) % MULTIPLE == 0 or features.device.type != "cuda"
    short = features.dtype == weight.dtype and weight.dtype.itemsize == 2
    if aligned or not short or torch.is_grad_enabled():
        return F.linear(features, weight, bias)
    return strided_logits(features, weight, bias, MULTIPLE)


def _costs_of_whole(logits_NV: Tensor, scored: Scored) -> Costs:
    """Costs by the plain formula."""
    tokens_N = scored.tokens_N
    likeliest_N = None
    if scored.candidates is not None:
        likeliest_N = logits_NV.detach()[:, : scored.candidates].argmax(-1) == tokens_N
    wide_NV = logits_NV.to(_wide_type(logits_NV.dtype))
    if scored.reduction == "mean":
        return F.cross_entropy(wide_NV, tokens_N), likeliest_N
    return _reduced(F.cross_entropy(wide_NV, tokens_N, reduction="none"), scored), likeliest_N


def _reduced(nll_N: Tensor, scored: Scored) -> Tensor:
    if scored.reduction == "sum":
        assert scored.weights_N is not None, "a sum has weights"
        return (nll_N * scored.weights_N).sum()
    return nll_N.mean() if scored.reduction == "mean" else nll_N


def _costs_in_chunks(
    features_NC: Tensor,
    weight_VC: Tensor,
    bias_V: Tensor | None,
    *,
    scored: Scored,
    layout: HeadLayout,
) -> Costs:
    """Costs without whole logits; sums and means are differentiated in the forward pass."""
    tokens_N, weights_N = scored.tokens_N, scored.weights_N
    if scored.reduction == "none" or not torch.is_grad_enabled():
        nll_N, likeliest_N = _costs_of_each(
            features_NC, weight_VC, bias_V, scored=scored, layout=layout
        )
        return _reduced(nll_N, scored), likeliest_N
    if weights_N is None:
        share = 1 / len(tokens_N)
        weights_N = torch.full_like(tokens_N, share, dtype=_wide_type(activation_dtype(weight_VC)))
    operands = (features_NC, weight_VC, bias_V, tokens_N, weights_N)
    nll, likeliest_N = _WeightedNll.apply(*operands, scored.candidates, layout)
    return nll, likeliest_N


def _costs_of_each(
    features_NC: Tensor,
    weight_VC: Tensor,
    bias_V: Tensor | None,
    *,
    scored: Scored,
    layout: HeadLayout,
) -> Costs:
    """Costs (N,); where they are differentiated, a chunk's logits are computed again."""
    head = _Operands.of(weight_VC, bias_V, layout)

    def of_chunk(x_RC: Tensor, tokens_R: Tensor) -> Costs:
        logits_RV = head.logits(x_RC)[:, : head.vocabulary]
        pieces = [
            _costs_of_whole(logits_RV[p], Scored(tokens_R[p], candidates=scored.candidates))
            for p in _slices(len(tokens_R), layout.piece)
        ]
        return _joined(pieces)

    found = []
    for rows in _slices(len(features_NC), layout.chunk):
        own = (features_NC[rows].to(head.dtype), scored.tokens_N[rows])
        again = torch.is_grad_enabled()
        found.append(checkpoint(of_chunk, *own, use_reentrant=False) if again else of_chunk(*own))
    return _joined(found)


def _joined(costs: list[Costs]) -> Costs:
    likeliest = [each for _, each in costs if each is not None]
    return torch.cat([nll for nll, _ in costs]), torch.cat(likeliest) if likeliest else None


@dataclass(frozen=True)
class _Operands:
    """The head in the type of its products, with the rows that the layout adds."""

    weight_WC: Tensor
    bias_W: Tensor | None
    vocabulary: int

    @classmethod
    def of(cls, weight_VC: Tensor, bias_V: Tensor | None, layout: HeadLayout) -> _Operands:
        dtype, added = activation_dtype(weight_VC), -len(weight_VC) % layout.multiple
        weight_WC = weight_VC.to(dtype)
        bias_W = None if bias_V is None else bias_V.to(dtype)
        if added:
            weight_WC = F.pad(weight_WC, (0, 0, 0, added))
            bias_W = None if bias_W is None else F.pad(bias_W, (0, added), value=-torch.inf)
        return cls(weight_WC, bias_W, len(weight_VC))

    @property
    def dtype(self) -> torch.dtype:
        return self.weight_WC.dtype

    def logits(self, x_RC: Tensor) -> Tensor:
        """Logits (R, W), -inf where there is no token."""
        logits_RW = F.linear(x_RC, self.weight_WC, self.bias_W)
        if self.bias_W is None and logits_RW.shape[1] > self.vocabulary:
            logits_RW[:, self.vocabulary :] = -torch.inf
        return logits_RW


class _WeightedNll(torch.autograd.Function):
    """sum_i w_i (-log p_i), and which tokens are the likeliest; gradients are taken on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        features_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        tokens_N: Tensor,
        weights_N: Tensor,
        candidates: int | None,
        layout: HeadLayout,
    ) -> Costs:
        head = _Operands.of(weight_VC, bias_V, layout)
        gradients = _Gradients(head, features_NC, needed=ctx.needs_input_grad[:3])
        costs = []
        for rows in _slices(len(features_NC), layout.chunk):
            x_RC = features_NC[rows].to(head.dtype)
            logits_RW = head.logits(x_RC)
            costs.append(
                _to_gradient(
                    logits_RW,
                    tokens_N[rows],
                    weights_N[rows],
                    vocabulary=head.vocabulary,
                    candidates=candidates,
                    piece=layout.piece,
                )
            )
            gradients.add(rows, x_RC, logits_RW)
            del logits_RW  # before the next chunk's exist
        nll_N, likeliest_N = _joined(costs)
        ctx.save_for_backward(*gradients.of_inputs())
        ctx.dtypes = (features_NC.dtype, weight_VC.dtype)
        if likeliest_N is not None:
            ctx.mark_non_differentiable(likeliest_N)
        return (nll_N * weights_N).sum(), likeliest_N

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        # In place: a copy of the weight's gradient would be the step's largest tensor once more.
        of_x, of_weight, of_bias = (
            None if value is None else value.mul_(gradient) for value in ctx.saved_tensors
        )
        feature_type, weight_type = ctx.dtypes
        return (
            None if of_x is None else of_x.to(feature_type),
            None if of_weight is None else of_weight.to(weight_type),
            None if of_bias is None else of_bias.to(weight_type),
            *(None,) * 4,
        )


class _Gradients:
    """Gradients of features, weight and bias, summed over chunks in float32 or wider."""

    def __init__(
        self, head: _Operands, features_NC: Tensor, needed: tuple[bool, bool, bool]
    ) -> None:
        self._head = head
        weight_WC = head.weight_WC
        wide = _wide_type(head.dtype)
        self._of_x = torch.empty_like(features_NC, dtype=head.dtype) if needed[0] else None
        self._of_weight = torch.zeros_like(weight_WC, dtype=wide) if needed[1] else None
        self._of_bias = weight_WC.new_zeros(len(weight_WC), dtype=wide) if needed[2] else None

    def add(self, rows: slice, x_RC: Tensor, gradient_RW: Tensor) -> None:
        """A chunk's: its features, and the gradient of its logits."""
        if self._of_x is not None:
            torch.mm(gradient_RW, self._head.weight_WC, out=self._of_x[rows])
        if self._of_bias is not None:
            self._of_bias += gradient_RW.sum(0, dtype=self._of_bias.dtype)
        if self._of_weight is None:
            return
        if self._of_weight.dtype == gradient_RW.dtype:
            torch.addmm(self._of_weight, gradient_RW.t(), x_RC, out=self._of_weight)
            return
        # A 16-bit product is no float32 sum: it is added to one, a band of the vocabulary at once.
        band = max(1, BAND // x_RC.shape[1] // MULTIPLE) * MULTIPLE
        for words in _slices(gradient_RW.shape[1], band):
            self._of_weight[words] += gradient_RW[:, words].t() @ x_RC

    def of_inputs(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Without the rows that the layout added."""
        weight, bias, rows = self._of_weight, self._of_bias, self._head.vocabulary
        return (
            self._of_x,
            None if weight is None else weight[:rows],
            None if bias is None else bias[:rows],
        )


def _to_gradient(
    logits_RW: Tensor,
    tokens_R: Tensor,
    weights_R: Tensor,
    *,
    vocabulary: int,
    candidates: int | None,
    piece: int,
) -> Costs:
    """Costs (R,) of the tokens; the logits become the gradient of their weighted sum."""
    costs: list[Costs] = []
    for rows in _slices(len(logits_RW), piece):
        logits, token_R1 = logits_RW[rows], tokens_R[rows, None]
        weight_R1 = weights_R[rows, None].to(_wide_type(logits.dtype))
        likeliest_R = None
        if candidates is not None:
            likeliest_R = logits[:, :candidates].argmax(-1) == token_R1[:, 0]
        log_p = logits.log_softmax(-1, dtype=_wide_type(logits.dtype))
        # Of the vocabulary alone, so that no token is an added row.
        costs.append((-log_p[:, :vocabulary].gather(1, token_R1)[:, 0], likeliest_R))
        gradient = log_p.exp_().mul_(weight_R1)
        gradient.scatter_(1, token_R1, gradient.gather(1, token_R1) - weight_R1)
        logits.copy_(gradient)
    return _joined(costs)


def _wide_type(dtype: torch.dtype) -> torch.dtype:
    """The type of sums."""
    return torch.promote_types(dtype, torch.float32)


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
