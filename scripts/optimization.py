"""Optimizer and learning-rate schedule of all three trainings.

AdamW with layer-wise learning-rate decay, Bao et al. 2022, arXiv:2106.08254 (BEiT), Appendix; linear warm-up, then
polynomial decay, as DeepLab, Chen et al. 2017, arXiv:1606.00915, Sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def build_optimizer(
    network: nn.Module, lr: float, loss: nn.Module | None = None, weight_decay: float = 0.05, layer_decay: float = 1.0
) -> AdamW:
    """AdamW over the trainable parameters of the network and of the loss (its feature adapter).

    Args:
        network: with `layer_decay` below 1 it offers `layer_of(name)` and `num_layers`, as TinyUSFMSeg does.
        lr: of the last layer and of the loss.
        loss: its parameters, if any, train at `lr`.
        weight_decay: of AdamW; not applied to vectors (biases, norms) nor to position and class embeddings. [0 or more]
        layer_decay: a layer's rate is `lr * layer_decay ** (num_layers - layer)`; 1 gives all layers the same. [0 to 1]
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}; pass --training::lr 1e-4.")
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must be in (0, 1], got {layer_decay}; pass --optimizer::layer_decay 0.8.")
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter, owner in _trainable(network, loss):
        decays = parameter.ndim > 1 and not name.endswith(("pos_embed", "cls_token"))
        scale = (
            layer_decay ** (network.num_layers - network.layer_of(name))
            if layer_decay < 1 and owner is network
            else 1.0
        )
        groups.setdefault((scale, weight_decay if decays else 0.0), []).append(parameter)
    if not groups:
        raise ValueError("there is nothing to train: no parameter of the network requires a gradient.")
    settings = [{"params": p, "lr": lr * scale, "weight_decay": decay} for (scale, decay), p in groups.items()]
    return AdamW(settings, lr=lr, fused=True)  # one pass over the weights: a quarter of the time, on the CPU too


def _trainable(network: nn.Module, loss: nn.Module | None) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    for owner in (network, loss) if loss is not None else (network,):
        for name, parameter in owner.named_parameters():
            if parameter.requires_grad:
                yield name, parameter, owner


def warmup_polynomial(
    optimizer: Optimizer, num_epochs: int, warmup_epochs: int, epoch_length: int, power: float = 0.9
) -> LambdaLR:
    """Linear warm-up over `warmup_epochs`, then (1 - progress) ** power to 0 at the end; stepped once an iteration.

    Args:
        optimizer: its groups keep their ratios.
        num_epochs: in all, the warm-up among them.
        warmup_epochs: may be 0.
        epoch_length: iterations an epoch.
        power: 1 is linear decay.
    """
    if num_epochs < 1:
        raise ValueError(f"num_epochs must be at least 1, got {num_epochs}; pass --training::num_epochs 150.")
    if not 0 <= warmup_epochs < num_epochs:
        raise ValueError(
            f"warmup_epochs must be at least 0 and below num_epochs ({num_epochs}), got {warmup_epochs}; "
            "pass --training::warmup_epochs 0 for a short run."
        )
    warmup, total = warmup_epochs * epoch_length, num_epochs * epoch_length

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return (1 - min(1.0, (step - warmup) / (total - warmup))) ** power

    return LambdaLR(optimizer, factor)
