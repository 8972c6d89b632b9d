"""The output cache: what hits, what misses, and what a damaged entry does."""

import logging

import pytest
import torch
from torch import nn

from scripts.cache import shards
from scripts.cache.entry_store import read_cache
from scripts.cache.output_cache import OutputCache


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def network():
    return nn.Conv2d(3, 4, kernel_size=1).requires_grad_(False)


def look_up(cache, network, images):
    """Outputs through the cache, and the indices that were computed."""
    computed = []

    def compute(missing):
        computed.extend(missing)
        return network(images[missing])

    return cache(images, compute), computed


def test_second_pass_is_read_and_equals_the_first(tmp_path, network):
    cache, images = OutputCache(tmp_path, network), torch.rand(3, 3, 8, 8)
    first, computed = look_up(cache, network, images)
    second, computed_again = look_up(cache, network, images)
    assert computed == [0, 1, 2]
    assert computed_again == []
    assert torch.equal(first, second)
    assert (cache.hits, cache.misses) == (3, 3)


def test_another_process_reads_the_same_entries(tmp_path, network):
    images = torch.rand(2, 3, 8, 8)
    first, _ = look_up(OutputCache(tmp_path, network), network, images)
    second, computed = look_up(OutputCache(tmp_path, network), network, images)
    assert computed == []
    assert torch.equal(first, second)


def test_outputs_are_float32_rounded_to_fp16(tmp_path, network):
    images = torch.rand(2, 3, 8, 8)
    found, _ = look_up(OutputCache(tmp_path, network), network, images)
    assert found.dtype == torch.float32
    assert torch.equal(found, network(images).half().float())
    assert [entry["output"].dtype for entry in read_cache(tmp_path).values()] == [torch.float16] * 2


def test_only_the_images_that_miss_are_computed(tmp_path, network):
    cache, images = OutputCache(tmp_path, network), torch.rand(4, 3, 8, 8)
    look_up(cache, network, images[1:3])
    found, computed = look_up(cache, network, images)
    assert computed == [0, 3]
    assert torch.equal(found, network(images).half().float())


def test_an_image_is_found_by_content_whatever_its_place_and_layout(tmp_path, network):
    cache, images = OutputCache(tmp_path, network), torch.rand(3, 3, 8, 8)
    first, _ = look_up(cache, network, images)
    turned = images.flip(0).contiguous(memory_format=torch.channels_last)
    second, computed = look_up(cache, network, turned)
    assert computed == []
    assert torch.equal(second, first.flip(0))


def test_one_changed_pixel_is_a_miss(tmp_path, network):
    cache, images = OutputCache(tmp_path, network), torch.rand(1, 3, 8, 8)
    look_up(cache, network, images)
    images[0, 2, 7, 7] += 1e-6
    assert look_up(cache, network, images)[1] == [0]


def test_another_shape_of_the_same_bytes_is_a_miss(tmp_path, network):
    cache, images = OutputCache(tmp_path, network), torch.rand(1, 3, 4, 16)
    look_up(cache, network, images)
    assert look_up(cache, network, images.reshape(1, 3, 16, 4))[1] == [0]


def test_other_weights_are_a_miss(tmp_path, network):
    images = torch.rand(1, 3, 8, 8)
    look_up(OutputCache(tmp_path, network), network, images)
    network.weight[0, 0] += 1e-3
    found, computed = look_up(OutputCache(tmp_path, network), network, images)
    assert computed == [0]
    assert torch.equal(found, network(images).half().float())


def test_another_precision_is_a_miss(tmp_path, network):
    cache, images = OutputCache(tmp_path, network), torch.rand(1, 3, 8, 8)
    look_up(cache, network, images)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert look_up(cache, network, images)[1] == [0]
            assert look_up(cache, network, images)[1] == []


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not an array", lambda b: b[:-1]]
)
def test_damaged_entry_is_computed_again_with_a_warning(tmp_path, network, caplog, damage):
    cache, images = OutputCache(tmp_path, network), torch.rand(1, 3, 8, 8)
    first, _ = look_up(cache, network, images)
    (path,) = tmp_path.rglob("*.rows")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        second, computed = look_up(cache, network, images)
    assert computed == [0]
    assert torch.equal(first, second)
    assert f"cache shard {path} is damaged" in caplog.text
    assert look_up(cache, network, images)[1] == []


def test_failed_write_leaves_nothing_behind(tmp_path, network, monkeypatch):
    def fail(file, content):
        file.write(content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "_write", fail)
    with pytest.raises(OSError, match="cannot be written .*No space left.* pass --teacher::cache_dir PATH"):
        look_up(OutputCache(tmp_path, network), network, torch.rand(1, 3, 8, 8))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_is_written_before_the_first_entry(tmp_path, network):
    OutputCache(tmp_path / "new", network)
    assert not (tmp_path / "new").exists()
