"""SAM's three sizes at 256 pixels, from official-format files of random weights: they build, train LoRA for a step
and teach.
"""

import pytest
import torch

from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.sam import build_sam
from scripts.networks.tuning import tunable_teacher
from scripts.optimization import build_optimizer


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["vit_b", "vit_l", "vit_h"])
def test_size_loads_at_256_and_runs_a_step(model_name, tmp_path):
    base = tmp_path / "sam.pth"
    with torch.device("meta"):
        official = build_sam(model_name, img_size=1024, num_mask_tokens=4).state_dict()
    generator = torch.Generator().manual_seed(0)
    torch.save({k: torch.randn(v.shape, generator=generator) * 0.02 for k, v in official.items()}, base)
    teacher = tunable_teacher(FrozenTeacher(model_name, sam_checkpoint=str(base)))
    before = teacher.adapter_state()["w_b_000"].clone()
    optimizer = build_optimizer(teacher, lr=1e-3)
    image = torch.rand(1, 1, 256, 256, generator=generator)
    teacher(image).square().mean().backward()
    optimizer.step()
    assert not torch.equal(teacher.adapter_state()["w_b_000"], before)
    torch.save(teacher.best_state(), tmp_path / "lora.pth")
    with torch.inference_mode():
        tuned = teacher.eval()(image)
        del teacher, optimizer
        options = {"sam_checkpoint": str(base), "lora_checkpoint": str(tmp_path / "lora.pth"), "precision": "fp32"}
        frozen = FrozenTeacher(model_name, **options)
        output = frozen(image)
    assert output.logits.shape == (1, 1, 256, 256)
    assert output.features.shape == (1, 256, 16, 16)
    torch.testing.assert_close(output.logits, tuned, atol=1e-3, rtol=1e-3)
