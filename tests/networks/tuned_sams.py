"""A tiny SAM with an adapter that changes it, and what it segments."""

import copy

import torch

from scripts.networks.lora import add_lora

SIZE, IMG, TOKENS, RANK = "vit_test", 32, 3, 4


def tuned(base, module, rank=RANK):
    """The base with an adapter that changes it: every trained tensor is moved."""
    model = add_lora(copy.deepcopy(base), module, rank)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return model.eval()


@torch.no_grad()
def segment(sam, image):
    """Image embedding and masks, through the attributes that the teacher uses."""
    features = sam.image_encoder(image)
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    masks, _ = sam.mask_decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    return features, masks
