"""Gradients of a slice's loss in the weights of the last layer, one row per slice.

Source: the embedding of BADGE, Ash et al., ICLR 2020, arXiv 1906.03671, there for classification.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight


def last_layer_gradients(
    net: nn.Module, images: Tensor, logits: Callable[[nn.Module, Tensor], Tensor]
) -> Tensor:
    """(B, G) gradients of the mean pixel cross-entropy to the net's own labels, float32.

    The labels are the argmax of the logits, so that a large gradient means an unsure prediction.
    G counts the weights of the convolution that runs last, without its bias. For a 1 x 1 output
    on activations z (F, P) and probabilities p (C, P) this is (p - y) z^T / P; everything between
    that convolution and the loss, a residual sum or a resize, is differentiated as well, so that
    the gradient is exact for any network that ends in a convolution without groups.

    logits : runs a network that behaves as `net` on `images`, giving (B, C, H, W).

    Rows do not depend on what else is in the batch, provided that the net is in eval mode. Neither
    the net nor its gradients are written to: hooks sit on a twin that shares the tensors, since
    another thread may be predicting with the same net.
    """
    shared: dict[int, Any] = {id(t): t for t in (*net.parameters(), *net.buffers())}
    twin = copy.deepcopy(net, shared)
    last: list[tuple[nn.Conv2d | nn.ConvTranspose2d, Tensor, Tensor]] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        cut = result.detach().requires_grad_()
        last[:] = [(layer, given[0].detach(), cut)]  # type: ignore[list-item]
        return cut.clone()  # what follows may work in place

    for layer in twin.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(note)
    with torch.enable_grad():
        scores = logits(twin, images).float()
        own = scores.detach().argmax(dim=1)
        pixels = own[0].numel()
        loss = functional.cross_entropy(scores, own, reduction="sum") / pixels
        layer, given, cut = last[0]
        (slope,) = torch.autograd.grad(loss, cut)
    return torch.stack(
        [_weight(layer, z[None], g[None]).flatten() for z, g in zip(given, slope, strict=True)]
    )


def _weight(layer: nn.Conv2d | nn.ConvTranspose2d, given: Tensor, slope: Tensor) -> Tensor:
    """Gradient in the layer's weight; a transposed convolution is one with its ends swapped."""
    geometry = (layer.stride, layer.padding, layer.dilation)
    size, given, slope = layer.weight.shape, given.float(), slope.float()
    if isinstance(layer, nn.ConvTranspose2d):
        given, slope = slope, given
    found: Tensor = conv2d_weight(given, size, slope, *geometry)  # type: ignore[no-untyped-call]
    return found
