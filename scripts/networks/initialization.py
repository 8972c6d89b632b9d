"""How a ViT starts without a checkpoint, so that few images suffice to train it.

A ViT with random weights has to find out first that patches next to each other belong together, which takes more images
than most ultrasound sets have. Here it starts nearer to where trained ones end up: attention to patches that are alike
in place and content, and a value path of 0.4 (Z - I), Z random, whose mean is a negative identity (Trockman and Kolter
2023, arXiv:2305.09828, "mimetic initialization"). The position embeddings are sines and cosines of row and column
(Vaswani et al. 2017, arXiv:1706.03762, Sec. 3.5), and go on training.

Differs from the paper in queries and keys: it factors alpha Z + beta I for each head, of which a head of 16 channels
can hold little. Here the rows of one orthogonal matrix, with a little noise, are shared out as query and key among the
heads: each looks at tokens that are alike in its own 16 directions, and before the softmax the heads' sum is the
tokens' scalar product (over 4).

Shapes: D width, h w patches.
"""

from __future__ import annotations

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

MIMETIC, RANDOM = INITIALIZATIONS = ("mimetic", "random")
VALUE_SCALE = 0.4  # alpha and beta of the paper's value path
NOISE = 0.02  # timm's own std of a weight, which tells queries from keys


@torch.no_grad()
def mimetic_(backbone: VisionTransformer) -> VisionTransformer:
    """Set the position embeddings and the attention's weights, in place; all else stays as it is.

    Args:
        backbone: of timm, with a class token and a width D that is a multiple of 4; drawn from torch's global
            generator.
    """
    grid = backbone.patch_embed.grid_size
    backbone.pos_embed[:, backbone.num_prefix_tokens :] = build_sincos2d_pos_embed(list(grid), backbone.embed_dim)
    for block in backbone.blocks:
        _set_attention(block.attn.qkv, block.attn.proj)
    return backbone


def _set_attention(qkv: nn.Linear, proj: nn.Linear) -> None:
    width = qkv.in_features
    query, key, value = qkv.weight.chunk(3)  # views, (D, D) each
    similarity = torch.linalg.qr(torch.randn(width, width))[0]
    for weight in (query, key):
        weight.copy_(similarity + NOISE * torch.randn(width, width))
    path = VALUE_SCALE * (torch.randn(width, width) / width**0.5 - torch.eye(width))
    left, singular, right = torch.linalg.svd(path)
    value.copy_(singular.sqrt()[:, None] * right)  # proj @ value = path; the heads have its parts in falling order
    proj.weight.copy_(left * singular.sqrt())
