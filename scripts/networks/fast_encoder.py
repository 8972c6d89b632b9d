"""SAM's image encoder without the arithmetic on padding: the same function and parameters in 0.6 of the time.

ImageEncoderViT (Kirillov et al. 2023, arXiv:2304.02643) pads its token grid with zeros to whole windows of 14 tokens:
at 256 pixels 16 x 16 tokens become 28 x 28. Surprise: segment_anything's softmax includes the pad tokens, so to leave
them out would be another network. But all of them have the same key and value, what qkv makes of zeros: together they
are one key, whose weight is the sum of theirs. The output differs from stock by float rounding alone, gradients
included.

Shapes: B batch, h w tokens of the image, D channels; W windows of all images together, n heads, d channels a head; r c
tokens of the image in a window.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import nn
from torch.nn import functional as F


class FastAttention(nn.Module):
    """What segment_anything's `Attention` computes on zero-padded windows, from the image's tokens alone.

    Args:
        attention: gives its layers and tables; their state-dict names stay.
        window_size: in tokens; 0 attends to the whole image.
    """

    def __init__(self, attention: Attention, window_size: int) -> None:
        super().__init__()
        self.num_heads, self.window_size = attention.num_heads, window_size
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        height, width = x.shape[1:3]
        window = (self.window_size,) * 2 if self.window_size else (height, width)
        qkv, pad = self._project(x)
        bands = []
        # whole windows, then those that the grid's border cuts: within a part all hold equally many tokens of the image
        for band in qkv.split(_whole_and_rest(height, window[0]), dim=1):
            parts = band.split(_whole_and_rest(width, window[1]), dim=2)
            bands.append(torch.cat([self._attend(part, pad, window) for part in parts], dim=2))
        return self.proj(torch.cat(bands, dim=1))

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """qkv (B, h, w, 3 D) of the tokens; key and value (2, 1, n, 1, d) of a pad token, which is 0 after the norm."""
        qkv = self.qkv(torch.cat([x.flatten(0, 2), x.new_zeros(1, x.shape[-1])]))
        return qkv[:-1].view(*x.shape[:3], -1), qkv[-1].view(3, 1, self.num_heads, 1, -1)[1:]

    def _attend(self, part: torch.Tensor, pad: torch.Tensor, window: tuple[int, int]) -> torch.Tensor:
        """Attention within the windows of a part, qkv (B, h, w, 3 D) -> (B, h, w, D), before `proj`."""
        height, width = part.shape[1:3]
        real = min(window[0], height), min(window[1], width)
        windows = _to_windows(part, real, self.num_heads)
        q, kv = windows[0], windows[1:]
        if real != window:
            # (2, W, n, r c, d) -> (2, W, n, r c + 1, d)
            kv = torch.cat([kv, pad.expand(-1, len(q), -1, -1, -1)], dim=3)
        out = F.scaled_dot_product_attention(q, *kv, attn_mask=self._position_bias(q, real, window))
        return _from_windows(out, real, (height, width))

    def _position_bias(self, q: torch.Tensor, real: tuple[int, int], window: tuple[int, int]) -> torch.Tensor:
        """What the relative positions add to the logits, (W, n, r c, r c), and one more key for the pad tokens if there
        are any.

        The position term of a key is one of its row plus one of its column, so that the pad tokens' sum of exponentials
        is a product of sums: pad rows times all columns, and rows of the image times pad columns.
        """
        rows, columns = real
        q = q.unflatten(2, real)
        row_term = torch.einsum("Wnrcd,rkd->Wnrck", q, get_rel_pos(window[0], window[0], self.rel_pos_h)[:rows])
        column_term = torch.einsum("Wnrcd,ckd->Wnrck", q, get_rel_pos(window[1], window[1], self.rel_pos_w)[:columns])
        # einsum leaves its axes permuted, and so would be their sum, which is as many times larger as there are rows
        row_term, column_term = row_term.contiguous(), column_term.contiguous()
        bias = (row_term[..., :rows, None] + column_term[..., None, :columns]).flatten(-2).flatten(2, 3)
        if real == window:
            return bias
        row_term, column_term = row_term.float(), column_term.float()
        below = row_term[..., rows:].logsumexp(-1) + column_term.logsumexp(-1)
        beside = row_term[..., :rows].logsumexp(-1) + column_term[..., columns:].logsumexp(-1)
        pads = torch.logaddexp(below, beside).flatten(2, 3).unsqueeze(-1)
        return torch.cat([bias, pads.to(bias.dtype)], dim=-1)


class FastBlock(nn.Module):
    """What `Block` computes, with `FastAttention`.

    Args:
        block: gives its layers; their state-dict names stay.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = FastAttention(block.attn, block.window_size)
        self.norm2, self.mlp = block.norm2, block.mlp
        self.train(block.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) -> (B, h, w, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def speed_up(image_encoder: ImageEncoderViT) -> ImageEncoderViT:
    """The encoder itself, every block replaced by one that computes the same; parameters and state-dict names stay.

    Checkpoints, LoRA and merging work before and after.

    Args:
        image_encoder: with relative positions, as every SAM; changed in place.

    Raises:
        ValueError: an encoder without relative positions.
    """
    stock = {i: block for i, block in enumerate(image_encoder.blocks) if isinstance(block, Block)}
    if not all(block.attn.use_rel_pos for block in stock.values()):
        raise ValueError("speed_up needs an image encoder with use_rel_pos True, as every SAM has, got False.")
    for i, block in stock.items():
        image_encoder.blocks[i] = FastBlock(block)
    return image_encoder


def _to_windows(qkv: torch.Tensor, real: tuple[int, int], num_heads: int) -> torch.Tensor:
    """(B, h, w, 3 D) -> q, k and v (3, W, n, r c, d)."""
    (batch, height, width, _), (rows, columns) = qkv.shape, real
    windows = qkv.reshape(batch, height // rows, rows, width // columns, columns, 3, num_heads, -1)
    return windows.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3).flatten(3, 4)


def _from_windows(x: torch.Tensor, real: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """(W, n, r c, d) -> (B, h, w, D)."""
    (height, width), (rows, columns) = size, real
    windows = x.reshape(-1, height // rows, width // columns, x.shape[1], rows, columns, x.shape[-1])
    return windows.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, height, width, x.shape[1] * x.shape[-1])


def _whole_and_rest(length: int, window: int) -> list[int]:
    """Tokens in whole windows, and those in the last window if it is not whole."""
    return [part for part in (length - length % window, length % window) if part]
