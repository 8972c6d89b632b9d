"""An image through a network: to its input's size and back, in float32 whatever the network's precision."""

import json

import pytest
import torch
from conftest import CONFIGS
from monai.data import MetaTensor
from monai.transforms import Resize, Resized
from monai.utils import MetaKeys, SpaceKeys

from scripts.data import geometry
from scripts.data.resizing import interpolate, resize_array
from scripts.data.segment import resize_image, restore_logits, segment

BF16 = torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("shape", [(1, 40, 30), (3, 16, 100)])
def test_image_is_resized_as_a_training_does_it_and_comes_back_as_a_plain_tensor(shape):
    section = json.loads((CONFIGS / "train.json").read_text())["preprocessing"]["resizing"]
    image = torch.rand(shape)
    expected = Resized("image", (32, 32), mode=section["mode"][0], anti_aliasing=section["anti_aliasing"][0])(
        {"image": image}
    )["image"]
    resized = resize_image(MetaTensor(image), 32)
    assert type(resized) is torch.Tensor
    assert torch.equal(resized, torch.as_tensor(expected).as_subclass(torch.Tensor))


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (31, 33), (32, 96), (500, 7), (257, 401), (600, 800)])
def test_resized_image_has_the_bits_of_monais_resize(shape):
    image = torch.rand(1, *shape)
    expected = Resize((32, 32), mode="bilinear", anti_aliasing=True)(image)
    assert torch.equal(resize_image(image, 32), expected.as_subclass(torch.Tensor))


@pytest.mark.parametrize("shape", [(225, 225), (354, 276), (500, 7), (600, 800)])
def test_blur_of_a_large_image_has_the_bits_of_monais(shape):
    """Windows of a few pixels, in the order of torch's convolution for large images, and for small ones."""
    image = torch.rand(2, *shape)
    expected = Resize((224, 224), mode="bilinear", anti_aliasing=True)(image).as_subclass(torch.Tensor)
    assert torch.equal(resize_image(image, 224), expected)


@pytest.mark.parametrize("shape", [(32, 32), (1, 5), (31, 33), (32, 96), (257, 401), (600, 800)])
def test_arrays_are_resized_as_tensors_are(shape):
    image, logits = torch.rand(1, *shape), torch.randn(2, 32, 32)
    assert abs(resize_array(image[0].numpy(), 32) - resize_image(image, 32)[0].numpy()).max() < 1e-5
    assert abs(interpolate(logits.numpy(), shape) - restore_logits(logits[None], shape)[0].numpy()).max() < 1e-4


def test_metadata_have_monais_names():
    names = ("AFFINE", "ORIGINAL_AFFINE", "SPATIAL_SHAPE", "SPACE")
    assert [getattr(geometry, name) for name in names] == [MetaKeys[name].value for name in names]
    assert (MetaKeys.ORIGINAL_CHANNEL_DIM.value, SpaceKeys.RAS.value) == (geometry.CHANNEL_DIM, geometry.RAS)


POSITIONS = {
    "resize_image": lambda maps: resize_image(maps[0], 32),
    "restore_logits": lambda maps: restore_logits(maps, (75, 93)),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_are_not_rounded_by_autocast(name):
    maps = torch.rand(1, 3, 128, 128)
    expected = POSITIONS[name](maps)
    with BF16:
        assert torch.equal(POSITIONS[name](maps), expected)


def test_only_the_network_runs_in_bf16():
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    image, seen = torch.rand(1, 100, 80), {}
    network.register_forward_hook(lambda module, inputs, logits: seen.update(input=inputs[0], dtype=logits.dtype))
    logits = segment(network, image, 32, "cpu", BF16)
    assert seen["dtype"] == torch.bfloat16
    assert torch.equal(seen["input"][0], resize_image(image, 32))
    with torch.inference_mode(), BF16:
        expected = network(resize_image(image, 32)[None])
    assert logits.dtype == torch.float32
    assert torch.equal(logits, restore_logits(expected, (100, 80))[0])
