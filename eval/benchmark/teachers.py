"""Teachers to compare: segment_anything and TinyViT as they come, with LoRA beside the weights, against the bundle's
fast ones.

SAM's weights are random here (no public package has them), in files of the official format; LiteMedSAM's are real.
Random logits have no masks, so masks are cut at each image's median, and differences are given in standard deviations
of the logits.

Shapes: B batch, h w tokens, D channels, R rank, H W pixels, S teacher image size.
"""

from __future__ import annotations

from itertools import cycle

import torch
from segment_anything.modeling import Sam
from torch import nn

from scripts.networks.adapters import Adapter, merge_adapter, read_adapter
from scripts.networks.frozen_teacher import FrozenTeacher, store_in_bf16
from scripts.networks.lite_medsam import build_lite_medsam, rename_key, shipped_checkpoint
from scripts.networks.lora_names import DECODER_ONLY
from scripts.networks.sam import build_sam, load_sam_checkpoint
from scripts.networks.teacher import SamTeacher, default_normalization
from scripts.networks.tuning import tunable_teacher
from scripts.networks.weights import load_strict, read_state_dict
from scripts.utils.hardware import keep_freed_memory

from .cases import load_cases
from .measure import count_gflop, roofline, step_figures, time_steps
from .settings import LITE_MEDSAM, Settings

NUM_MASK_TOKENS = 3  # of a teacher of two classes
OFFICIAL_TOKENS, OFFICIAL_SIZE = 4, 1024
VARIANTS = ("stock_fp32", "fast_fp32", "fast_bf16")
STEPS = 3
SMALL_BATCHES = ("vit_h", LITE_MEDSAM)  # 2 images, the others 4


class SeparateLora(nn.Module):
    """A fused qkv (B, h, w, D) -> (B, h, w, 3 D) whose q and v get B(A x) in products of their own in every pass, as in
    SAMed.

    Args:
        qkv: the frozen Linear.
        pairs: A (R, D) and B (D, R) of q, then of v.
    """

    def __init__(self, qkv: nn.Linear, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.qkv = qkv
        self.products = nn.ModuleList(nn.Sequential(_linear(a), _linear(b)) for a, b in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv, width = self.qkv(x), x.shape[-1]
        qkv[..., :width] += self.products[0](x)
        qkv[..., -width:] += self.products[1](x)
        return qkv


def _linear(weight: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.load_state_dict({"weight": weight})
    return linear


def write_weights(settings: Settings, model: str) -> dict[str, float]:
    """Write a base file of random weights and the adapter of a fine-tuning that both the reference way and ours read.

    Position tables and LoRA's B, zero in a new network, are drawn too, so that nothing in the pass is idle.
    """
    torch.manual_seed(settings.seed)
    files = settings.teacher(model)
    if model != LITE_MEDSAM:
        sam = build_sam(settings.models[model], OFFICIAL_SIZE, OFFICIAL_TOKENS)
        _draw(sam, ("rel_pos_h", "rel_pos_w", "pos_embed"))
        torch.save(sam.state_dict(), files["sam_checkpoint"])
        del sam
    teacher = tunable_teacher(FrozenTeacher(**{**files, "lora_checkpoint": None}))
    _draw(teacher, ("lora_B.default.weight",))
    torch.save(teacher.best_state(), files["lora_checkpoint"])
    return {"parameters": sum(p.numel() for p in teacher.parameters())}


@torch.no_grad()
def _draw(module: nn.Module, endings: tuple[str, ...]) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith(endings):
            parameter.normal_(0, 0.02)


def stock_teacher(settings: Settings, model: str) -> SamTeacher:
    """The teacher as segment_anything (or timm) computes it, LoRA not merged."""
    files = settings.teacher(model)
    adapter = read_adapter(files["lora_checkpoint"])
    if model == LITE_MEDSAM:
        sam = _stock_lite_medsam()
    else:
        sam = build_sam(files["model_name"], files["img_size"], NUM_MASK_TOKENS)
        load_sam_checkpoint(sam, files["sam_checkpoint"])
    merge_adapter(sam, adapter._replace(module=DECODER_ONLY))  # prompt encoder and mask decoder alone
    _add_separate_lora(sam, adapter)
    return SamTeacher(sam.requires_grad_(False), files["img_size"], default_normalization(model)).eval()


def _add_separate_lora(sam: Sam, adapter: Adapter) -> None:
    for i in range(adapter.depth):
        pairs = [(adapter.state[f"w_a_{j:03d}"], adapter.state[f"w_b_{j:03d}"]) for j in (2 * i, 2 * i + 1)]
        attention = sam.image_encoder.blocks[i].attn
        attention.qkv = SeparateLora(attention.qkv, pairs)


def _stock_lite_medsam() -> Sam:
    """LiteMedSAM with timm's own attention and batch norms, whole batches at once."""
    sam = build_lite_medsam(NUM_MASK_TOKENS)
    state = read_state_dict(shipped_checkpoint())
    state = {rename_key(key): tensor for key, tensor in state.items() if key.startswith("image_encoder.")}
    load_strict(sam, state, allowed_missing=("prompt_encoder.*", "mask_decoder.*"))
    encoder = sam.image_encoder
    for module in encoder.modules():
        vars(module).pop("get_attention_biases", None)  # what reach_fused_attention put over the class's method
    sam.image_encoder = nn.Sequential(encoder.vit.patch_embed, encoder.vit.stages, encoder.neck)
    sam.image_encoder.img_size = encoder.img_size
    return sam


def teacher_pass(
    settings: Settings, model: str, variant: str, img_size: int | None = None, keep_memory: bool = False
) -> dict[str, float]:
    """Figures of encoder and decoder on batches of images; with the stock pass before, how far the logits are from its.

    Args:
        settings: of the run.
        model: vit_b, vit_l, vit_h or lite_medsam.
        variant: one of `VARIANTS`.
        img_size: the teacher's, in pixels; that of the run when None.
        keep_memory: with the bundle's allocator, which the fast variants always have, as every run of the bundle.
    """
    device, bf16, stock = settings.device, variant.endswith("bf16"), variant == "stock_fp32"
    if keep_memory or not stock:
        keep_freed_memory()
    teacher = stock_teacher(settings, model) if stock else _fast_teacher(settings, model, img_size)
    batch, steps = 2 if model in SMALL_BATCHES else 4, min(STEPS, settings.steps)
    images, _ = load_cases(settings, teacher.img_size, batch * (steps + 1))
    teacher, batches, logits = teacher.to(device), cycle(images.to(device).split(batch)), []
    gflop = count_gflop(lambda: teacher(images[:1].to(device)))
    if bf16:
        store_in_bf16(teacher)
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        seconds = time_steps(lambda: logits.append(teacher(next(batches)).logits), 1, steps, device)
        figures = step_figures(seconds, batch, device)
    figures.update(roofline(gflop, figures["image_seconds"], device, bf16))
    figures["parameters"] = sum(p.numel() for p in teacher.parameters())
    if img_size is None:
        figures.update(_compare_with_stock(settings, model, variant, torch.cat(logits).float().cpu()))
    return figures


def _fast_teacher(settings: Settings, model: str, img_size: int | None) -> SamTeacher:
    return FrozenTeacher(**settings.teacher(model, img_size), precision="fp32").load()[0]


def _compare_with_stock(settings: Settings, model: str, variant: str, logits: torch.Tensor) -> dict[str, float]:
    """Keep the stock logits (B, 1, S, S); the distance of the others from them."""
    path = settings.folder / f"logits_{settings.device}_{model}.pt"
    if variant == "stock_fp32":
        torch.save(logits, path)
        return {"logit_deviation": float(logits.std())}
    return compare_logits(logits, torch.load(path, weights_only=True))


def compare_logits(logits: torch.Tensor, stock: torch.Tensor) -> dict[str, float]:
    """Largest difference, absolute and in standard deviations of the stock logits; mean Dice of masks cut at the
    median.

    Args:
        logits: (B, 1, S, S).
        stock: (B, 1, S, S).
    """
    difference = float((logits - stock).abs().max())
    ours, theirs = (x.flatten(1) > x.flatten(1).median(dim=1, keepdim=True).values for x in (logits, stock))
    dice = 2 * (ours & theirs).sum(1) / (ours.sum(1) + theirs.sum(1))
    return {
        "max_difference": difference,
        "scaled_difference": difference / float(stock.std()),
        "mask_dice": float(dice.mean()),
    }
