"""Adapters: their two file forms, merging, and every refusal."""

import copy
import json

import pytest
import torch
from segment_anything.modeling import Sam
from torch import nn
from tuned_sams import IMG, RANK, SIZE, TOKENS, segment, tuned

from scripts.networks.adapters import (
    adapter_state,
    check_adapter,
    describe_adapter,
    merge_adapter,
    read_adapter,
    save_checkpoint_file,
    save_peft_adapter,
)
from scripts.networks.lite_medsam import build_lite_medsam, fuse_batch_norm
from scripts.networks.lora import add_lora, split_qkv
from scripts.networks.lora_names import DECODER_ONLY, ENCODER, FULL
from scripts.networks.sam import build_sam


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(1)
    return build_sam(SIZE, IMG, TOKENS).eval()


def read_back(state):
    return describe_adapter(state, "x.pth")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def assert_close(found, expected, atol):
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize("module", [ENCODER, FULL, DECODER_ONLY])
def test_merged_adapter_is_a_plain_sam_that_computes_the_same(base, module):
    model, image, sam = tuned(base, module), torch.rand(2, 3, IMG, IMG), copy.deepcopy(base)
    merge_adapter(sam, read_back(adapter_state(model, module)))
    assert type(sam) is Sam
    assert sam.state_dict().keys() == base.state_dict().keys()
    assert_close(segment(sam, image), segment(model, image), atol=5e-6)


def test_merge_of_peft_agrees_with_ours(base):
    model = tuned(base, FULL)
    ours = copy.deepcopy(base)
    merge_adapter(ours, read_back(adapter_state(model, FULL)))
    split_qkv(ours.image_encoder)  # as peft has it
    theirs = model.merge_and_unload()
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], tensor, atol=1e-6, rtol=0)


def test_names_and_shapes_of_the_reference_implementation(base):
    state = adapter_state(tuned(base, FULL), FULL)
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert all(shapes[f"w_a_{i:03d}"] == (4, 64) and shapes[f"w_b_{i:03d}"] == (64, 4) for i in range(4))
    for i in range(4):
        assert shapes[f"sa_a_{i:03d}"] == (4, 256)
        assert shapes[f"sa_b_{i:03d}"] == (256, 4)
        assert shapes[f"cti_b_{i:03d}"] == shapes[f"cit_b_{i:03d}"] == (128, 4)
    assert shapes["fati_qa"] == shapes["fati_va"] == (4, 256)
    assert shapes["fati_qb"] == shapes["fati_vb"] == (128, 4)
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in shapes
    assert not any("transformer" in key for key in shapes)
    others = {key for key in base.state_dict() if not key.startswith("image_encoder.") and ".transformer." not in key}
    assert others == {key for key in shapes if "." in key}


def test_encoder_module_keeps_the_decoder_transformer(base):
    state = adapter_state(tuned(base, ENCODER), ENCODER)
    assert {key for key in state if "." in key} == {k for k in base.state_dict() if not k.startswith("image_encoder.")}


@pytest.mark.parametrize("module", [ENCODER, FULL])
def test_file_and_peft_folder_round_trip_bit_exact(base, tmp_path, module):
    state = adapter_state(tuned(base, module, rank=2), module)
    save_checkpoint_file(state, tmp_path / "new" / "a.pth", module)
    first = read_adapter(tmp_path / "new" / "a.pth")
    save_peft_adapter(first.state, tmp_path / "adapter")
    second = read_adapter(tmp_path / "adapter")
    save_checkpoint_file(second.state, tmp_path / "b.pth", module)
    others = map(read_adapter, (tmp_path / "b.pth", tmp_path / "adapter" / "adapter_model.safetensors"))
    for adapter in (first, second, *others):
        assert adapter[:5] == (module, 2, TOKENS, 2, 64)
        assert_same(adapter.state, state)
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_mask_decoder_file_round_trips(base, tmp_path):
    state = adapter_state(tuned(base, DECODER_ONLY), DECODER_ONLY)
    save_checkpoint_file(state, tmp_path / "a.pth", DECODER_ONLY)
    adapter = read_adapter(tmp_path / "a.pth")
    assert adapter[:5] == (DECODER_ONLY, 0, TOKENS, 0, 0)
    assert_same(adapter.state, state)
    check_adapter(adapter, base, DECODER_ONLY, RANK, TOKENS - 1)


def test_file_is_a_flat_dictionary_with_the_mode(base, tmp_path):
    state = adapter_state(tuned(base, ENCODER), ENCODER)
    save_checkpoint_file(state, tmp_path / "a.pth", ENCODER)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert content.pop("adaptation_mode") == ENCODER
    assert_same(content, state)


@pytest.mark.parametrize("module", [ENCODER, FULL])
def test_peft_itself_loads_our_folder(base, tmp_path, module):
    from peft import PeftModel

    model, image, sam = tuned(base, module), torch.rand(1, 3, IMG, IMG), copy.deepcopy(base)
    save_peft_adapter(adapter_state(model, module), tmp_path)
    split_qkv(sam.image_encoder)
    loaded = PeftModel.from_pretrained(sam, tmp_path).eval()
    assert_close(segment(loaded, image), segment(model, image), atol=0)


@pytest.mark.parametrize("module", [ENCODER, FULL])
def test_folder_that_peft_saved_is_read(base, tmp_path, module):
    model = tuned(base, module)
    model.save_pretrained(tmp_path)
    assert_same(read_adapter(tmp_path).state, adapter_state(model, module))


def test_failed_write_leaves_the_old_file(base, tmp_path):
    state = adapter_state(tuned(base, DECODER_ONLY), DECODER_ONLY)
    save_checkpoint_file(state, tmp_path / "a.pth", DECODER_ONLY)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint_file({"x": lambda: None}, tmp_path / "a.pth", DECODER_ONLY)
    assert_same(read_adapter(tmp_path / "a.pth").state, state)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_peft_folder_without_lora_is_refused(base, tmp_path):
    state = adapter_state(tuned(base, DECODER_ONLY), DECODER_ONLY)
    with pytest.raises(ValueError, match="a peft adapter needs LoRA, but teacher::module is mask_decoder"):
        save_peft_adapter(state, tmp_path)


@pytest.fixture(scope="module")
def adapter(base):
    return read_back(adapter_state(tuned(base, ENCODER), ENCODER))


@pytest.mark.parametrize(
    ("module", "rank", "num_classes", "message"),
    [
        (ENCODER, 8, 2, "has LoRA rank 4, but teacher::rank is 8; pass --teacher::rank 4"),
        (FULL, 4, 2, "was tuned as sam_lora_image_encoder, but teacher::module is sam_lora_image_encoder_mask_decoder"),
        (
            ENCODER,
            4,
            3,
            "has 3 mask tokens, that is 2 classes, but the teacher is built for 3; check data::num_classes",
        ),
    ],
)
def test_adapter_of_another_config_is_refused(base, adapter, module, rank, num_classes, message):
    check_adapter(adapter, base, ENCODER, 4, 2)
    with pytest.raises(ValueError, match=f"x.pth {message}"):
        check_adapter(adapter, base, module, rank, num_classes)


def test_adapter_of_another_sam_size_is_refused(adapter):
    with torch.device("meta"):
        large = build_sam("vit_b", 64, TOKENS)
    with pytest.raises(ValueError, match="is LoRA for vit_test .*, but teacher::model_name is vit_b"):
        check_adapter(adapter, large, ENCODER, 4, 2)


def test_adapter_for_an_encoder_that_is_no_vit_is_refused(base, adapter):
    sam = copy.deepcopy(base)
    sam.image_encoder = nn.Identity()
    with pytest.raises(ValueError, match="but teacher::model_name is no SAM ViT"):
        check_adapter(adapter, sam, ENCODER, 4, 2)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("backbone.cls_token", "is a TinyUSFM student .*; it is for student::checkpoint"),
        ("image_encoder.pos_embed", "is a SAM base file .*; it is for teacher::sam_checkpoint"),
        ("sam.image_encoder.pos_embed", "is the whole network of a teacher fine-tuning"),
        ("conv1.weight", "is neither a student, a SAM nor an adapter"),
    ],
)
def test_file_of_another_network_is_refused_by_name(tmp_path, key, message):
    torch.save({key: torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"teacher::lora_checkpoint .*x.pth {message}"):
        read_adapter(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("w_b_001", None, r"no whole sam_lora_image_encoder adapter: missing \[w_b_001\]"),
        (None, "w_c_000", r"unexpected \[w_c_000\]"),
        ("mask_decoder.mask_tokens.weight", None, r"missing \[mask_decoder.mask_tokens.weight\]"),
    ],
)
def test_torn_adapter_is_refused_with_its_keys(adapter, tmp_path, drop, add, message):
    state = {key: tensor for key, tensor in adapter.state.items() if key != drop}
    torch.save({**state, add: torch.ones(1)} if add else state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=message):
        read_adapter(tmp_path / "x.pth")


def test_two_ranks_are_refused(adapter):
    with pytest.raises(ValueError, match=r"must have one LoRA rank, got \[2, 4\]"):
        read_back({**adapter.state, "w_a_000": torch.ones(2, 64)})


def test_merging_a_decoder_that_does_not_fit_changes_nothing(base, adapter):
    sam = copy.deepcopy(base)
    state = {key: tensor for key, tensor in adapter.state.items() if key != "mask_decoder.iou_token.weight"}
    with pytest.raises(ValueError, match="x.pth does not fit Sam: 1 missing: mask_decoder.iou_token.weight"):
        merge_adapter(sam, adapter._replace(state=state))
    assert_same(sam.state_dict(), base.state_dict())


def test_merging_lora_of_another_shape_is_refused(base, adapter):
    wrong = {**adapter.state, "w_b_000": torch.ones(8, 4)}
    with pytest.raises(
        ValueError, match=r"w_b_000 @ w_a_000 \(8, 64\) fits no rows of the base SAM's image_encoder.blocks.0"
    ):
        merge_adapter(copy.deepcopy(base), adapter._replace(state=wrong))


def test_peft_folder_that_lacks_a_file_is_refused(adapter, tmp_path):
    save_peft_adapter(adapter.state, tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="teacher::lora_checkpoint .*adapter_model.safetensors does not exist"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="is no peft adapter folder: adapter_config.json does not exist"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"peft_type": "IA3"}'])
def test_peft_folder_with_a_broken_config_is_refused(adapter, tmp_path, text):
    save_peft_adapter(adapter.state, tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="is no LoRA configuration of peft"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("change", [{"lora_alpha": 8}, {"use_rslora": True}])
def test_peft_folder_of_another_scale_is_refused(adapter, tmp_path, change):
    save_peft_adapter(adapter.state, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=r"LoRA must have scale 1 \(lora_alpha = r\)"):
        read_adapter(tmp_path)


def test_missing_adapter_names_the_config_id(tmp_path):
    with pytest.raises(FileNotFoundError, match="teacher::lora_checkpoint .*gone.pth does not exist"):
        read_adapter(tmp_path / "gone.pth")


@pytest.fixture(scope="module")
def lite():
    """A small LiteMedSAM as `load_lite_medsam` leaves it: batch norms fused."""
    torch.manual_seed(1)
    sizes = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window_sizes=(7, 7, 14, 7))
    sam = build_lite_medsam(TOKENS, **sizes).eval()
    fuse_batch_norm(sam.image_encoder)
    return sam


def test_tiny_vit_trains_lora_neck_and_decoder_but_not_the_first_stages(lite):
    model = add_lora(copy.deepcopy(lite), ENCODER, RANK)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[1] for name in trained if name.startswith("image_encoder.")} == {"vit", "neck"}
    assert all(".lora_" in name for name in trained if ".vit." in name)
    lora = {name.rsplit(".lora_", 1)[0] for name in trained if ".vit." in name}
    assert len(lora) == 4 * 3  # qkv, proj, fc1, fc2 of three blocks
    assert {name.split(".stages.")[1][0] for name in lora} == {"2", "3"}
    assert {name for name in trained if not name.startswith("image_encoder.")} == {
        name for name, _ in lite.named_parameters() if not name.startswith("image_encoder.")
    }


def test_merged_tiny_vit_adapter_computes_the_same(lite, tmp_path):
    model, image, sam = tuned(lite, ENCODER), torch.rand(1, 3, 256, 256), copy.deepcopy(lite)
    save_checkpoint_file(adapter_state(model, ENCODER), tmp_path / "a.pth", ENCODER)
    adapter = read_adapter(tmp_path / "a.pth")
    assert adapter[:5] == (ENCODER, RANK, TOKENS, 3, 32)
    check_adapter(adapter, sam, ENCODER, RANK, TOKENS - 1)
    merge_adapter(sam, adapter)
    assert sam.state_dict().keys() == lite.state_dict().keys()
    before, after = segment(lite, image), segment(sam, image)
    assert (before[0] - after[0]).abs().max() > 1e-2
    assert_close(after, segment(model, image), atol=2e-5)


def test_tiny_vit_adapter_becomes_a_peft_folder_and_back_bit_exact(lite, tmp_path):
    from peft import PeftModel

    model, image = tuned(lite, ENCODER), torch.rand(1, 3, 256, 256)
    state = adapter_state(model, ENCODER)
    save_peft_adapter(state, tmp_path)
    assert_same(read_adapter(tmp_path).state, state)
    loaded = PeftModel.from_pretrained(copy.deepcopy(lite), tmp_path).eval()
    assert_close(segment(loaded, image), segment(model, image), atol=2e-5)


@pytest.fixture(scope="module")
def lite_state(lite):
    return adapter_state(tuned(lite, ENCODER), ENCODER)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("stages.2.blocks.1.mlp.fc1.lora_A", r"missing \[image_encoder.vit.stages.2.blocks.1.mlp.fc1.lora_A.weight\]"),
        ("stages.2.blocks.1.mlp.fc1", r"LoRA is missing for \[image_encoder.vit.stages.2.blocks.1.mlp.fc1\]"),
        ("neck.2", "1 missing: image_encoder.neck.2.weight"),
        ("mask_decoder.iou_token", "1 missing: mask_decoder.iou_token.weight"),
    ],
)
def test_cut_tiny_vit_adapter_is_refused(lite, lite_state, removed, message):
    sam, state = copy.deepcopy(lite), {key: tensor for key, tensor in lite_state.items() if removed not in key}
    assert len(state) < len(lite_state)
    with pytest.raises(ValueError, match=f"x.pth .*{message}"):
        check_adapter(read_back(state), sam, ENCODER, RANK, TOKENS - 1)
        merge_adapter(sam, read_back(state))
    assert_same(sam.state_dict(), lite.state_dict())


def test_tiny_vit_adapter_with_lora_elsewhere_is_refused(lite, lite_state):
    place = "image_encoder.vit.stages.{}.blocks.0.mlp.fc1"
    more = {
        key.replace(place.format(3), place.format(1)): tensor
        for key, tensor in lite_state.items()
        if place.format(3) in key
    }
    assert len(more) == 2
    message = (
        r"x.pth has LoRA that this encoder has no place for, for \[image_encoder.vit.stages.1.blocks.0.mlp.fc1\]; "
        r"tune it anew"
    )
    with pytest.raises(ValueError, match=message):
        check_adapter(read_back({**lite_state, **more}), copy.deepcopy(lite), ENCODER, RANK, TOKENS - 1)


def test_adapter_of_one_encoder_is_refused_by_the_other(base, lite, adapter, lite_state):
    with pytest.raises(
        ValueError, match=r"is LoRA for vit_test \(width 64, 2 blocks\), but .*model_name is an unknown size \(width 32"
    ):
        check_adapter(adapter, lite, ENCODER, RANK, TOKENS - 1)
    with pytest.raises(
        ValueError, match=r"is LoRA for an unknown size \(width 32, 3 blocks\), but teacher::model_name is"
    ):
        check_adapter(read_back(lite_state), base, ENCODER, RANK, TOKENS - 1)
