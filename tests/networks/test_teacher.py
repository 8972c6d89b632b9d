"""The teacher: segment_anything without prompts, what trains, what is written and read back, every refusal."""

import copy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from scripts.networks import teacher as teacher_module
from scripts.networks.adapters import adapter_state, save_checkpoint_file
from scripts.networks.fast_encoder import FastBlock, speed_up
from scripts.networks.frozen_teacher import FrozenTeacher, store_in_bf16
from scripts.networks.lite_medsam import build_lite_medsam
from scripts.networks.lora_names import DECODER_ONLY, ENCODER, FULL
from scripts.networks.sam import build_sam
from scripts.networks.teacher import SamTeacher, TeacherOutput, count_mask_tokens
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.networks.tuning import tunable_teacher

SIZE, IMG = "vit_test", 64
# per channel, for images in [0, 255], from segment_anything's Sam and torchvision's ImageNet models
PIXELS = {
    "imagenet": ([0.485 * 255, 0.456 * 255, 0.406 * 255], [0.229 * 255, 0.224 * 255, 0.225 * 255]),
    "sam": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    "unit": ([0.0] * 3, [255.0] * 3),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def base():
    """A SAM whose position tables matter; segment_anything starts them at 0."""
    torch.manual_seed(1)
    sam = build_sam(SIZE, IMG, num_mask_tokens=4)
    for name, parameter in sam.named_parameters():
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            torch.nn.init.normal_(parameter, std=0.3)
    return sam.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def checkpoint(base, tmp_path_factory):
    """The base as a file with the names of SAM's own."""
    path = tmp_path_factory.mktemp("base") / "sam_vit_test.pth"
    torch.save(base.state_dict(), path)
    return str(path)


def build_tunable(*args, **options):
    """What train_teacher.json trains, from the arguments of the section teacher."""
    return tunable_teacher(FrozenTeacher(*args, **options))


def build_frozen(*args, **options):
    """The one member of a frozen teacher in fp32."""
    return FrozenTeacher(*args, **{"precision": "fp32", **options}).load()[0]


@pytest.fixture
def trainable(checkpoint):
    return partial(build_tunable, SIZE, img_size=IMG, sam_checkpoint=checkpoint)


@pytest.fixture(scope="module")
def adapter_file(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter") / "best.pth"
    torch.manual_seed(2)
    torch.save(build_tunable(SIZE, img_size=IMG, sam_checkpoint=checkpoint).best_state(), path)
    return str(path)


@pytest.fixture
def frozen(checkpoint, adapter_file):
    return partial(build_frozen, SIZE, img_size=IMG, sam_checkpoint=checkpoint, lora_checkpoint=adapter_file)


@torch.no_grad()
def low_resolution_masks(sam, image, normalization):
    """segment_anything's own call, one image at a time: all tokens, (B, T, h, w)."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in PIXELS[normalization])
    masks = []
    for one in (image * 255).expand(-1, 3, -1, -1).split(1):
        features = sam.image_encoder((one - mean) / std)
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        arguments = dict(image_pe=sam.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse)
        arguments["dense_prompt_embeddings"] = dense
        # segment_anything gives token 0 or the others
        parts = [sam.mask_decoder(image_embeddings=features, multimask_output=m, **arguments)[0] for m in (False, True)]
        masks.append(torch.cat(parts, dim=1))
    return torch.cat(masks)


def resize(masks, size=IMG):
    return F.interpolate(masks, size=(size, size), mode="bilinear", align_corners=False)


def speed_up_copy(sam):
    sam = copy.deepcopy(sam)
    speed_up(sam.image_encoder)
    return sam


def tune(teacher, steps=3):
    """A few real steps; B starts at 0, so that A moves from the second on."""
    optimizer = torch.optim.Adam((p for p in teacher.parameters() if p.requires_grad), lr=1e-2)
    image, target = torch.rand(2, 1, IMG, IMG), torch.rand(2, 1, IMG, IMG)
    for _ in range(steps):
        optimizer.zero_grad()
        (teacher(image) - target).square().mean().backward()
        optimizer.step()
    return teacher.eval()


@pytest.mark.parametrize("normalization", list(PIXELS))
def test_logits_are_those_of_segment_anything(base, normalization):
    image = torch.rand(3, 1, IMG, IMG)
    output = SamTeacher(base, IMG, normalization)(image)
    expected = resize(low_resolution_masks(base, image, normalization)[:, :1])
    assert isinstance(output, TeacherOutput)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)
    assert output.features.shape == (3, 256, IMG // 16, IMG // 16)


@torch.no_grad()
def test_positions_are_not_rounded_by_autocast(base, monkeypatch):
    teacher, seen = SamTeacher(base, IMG), {}
    decode = base.mask_decoder.predict_masks
    monkeypatch.setattr(base.mask_decoder, "predict_masks", lambda **inputs: seen.update(inputs) or decode(**inputs))
    with torch.autocast("cpu", torch.bfloat16):
        teacher(torch.rand(1, 1, IMG, IMG))
    assert torch.equal(seen["image_pe"], base.prompt_encoder.get_dense_pe())


@torch.no_grad()
def test_weights_stored_in_bf16_give_the_same_bits_under_autocast(base):
    teacher, image = SamTeacher(speed_up_copy(base), IMG), torch.rand(2, 1, IMG, IMG)
    stored = copy.deepcopy(teacher)
    store_in_bf16(stored)
    assert stored.sam.image_encoder.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert stored.sam.image_encoder.blocks[0].norm1.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        for found, expected in zip(stored(image), teacher(image)):
            assert torch.equal(found, expected)
            assert found.dtype == expected.dtype


def test_one_channel_and_three_equal_channels_agree(base):
    teacher, image = SamTeacher(base, IMG), torch.rand(2, 1, IMG, IMG)
    assert torch.equal(teacher(image).logits, teacher(image.expand(-1, 3, -1, -1)).logits)


@pytest.mark.parametrize("size", [(56, 56), (100, 80), (128, 128)])
def test_other_sizes_are_resized_and_not_padded(base, size):
    teacher, image = SamTeacher(base, IMG), torch.rand(2, 1, *size)
    resized = F.interpolate(image, size=(IMG, IMG), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(teacher(image).logits, teacher(resized).logits)
    constant = teacher.prepare(torch.full((1, 1, *size), 0.5))
    torch.testing.assert_close(constant, teacher.prepare(torch.full((1, 1, IMG, IMG), 0.5)))


@pytest.mark.parametrize(
    ("mask_tokens", "tokens"), [("single", slice(0, 1)), ("multimask", slice(1, None)), ("all", slice(None))]
)
def test_mask_tokens_choose_the_channels(base, mask_tokens, tokens):
    image = torch.rand(2, 1, IMG, IMG)
    expected = resize(low_resolution_masks(base, image, "imagenet")[:, tokens])
    torch.testing.assert_close(
        SamTeacher(base, IMG, mask_tokens=mask_tokens)(image).logits, expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("num_classes", "mask_tokens", "tokens", "channels"),
    [
        (2, None, 3, 1),
        (2, "multimask", 3, 1),
        (2, "all", 2, 1),
        (3, None, 4, 3),
        (3, "multimask", 4, 3),
        (3, "all", 3, 3),
    ],
)
def test_channels_are_one_for_two_classes_else_one_a_class(trainable, num_classes, mask_tokens, tokens, channels):
    teacher = trainable(module=DECODER_ONLY, num_classes=num_classes, mask_tokens=mask_tokens)
    assert teacher.sam.mask_decoder.num_mask_tokens == tokens
    assert teacher(torch.rand(2, 1, IMG, IMG)).shape == (2, channels, IMG, IMG)


def test_two_channels_become_the_one_that_has_their_softmax():
    sam = build_sam(SIZE, IMG, num_mask_tokens=2).requires_grad_(False)
    image = torch.rand(1, 1, IMG, IMG)
    logits = SamTeacher(sam, IMG, mask_tokens="all")(image).logits
    expected = resize(low_resolution_masks(sam, image, "imagenet")).softmax(dim=1)[:, 1:]
    torch.testing.assert_close(logits.sigmoid(), expected, atol=1e-5, rtol=1e-5)


def test_frozen_teacher_gives_no_gradients(frozen):
    teacher = frozen()
    output = teacher(torch.rand(1, 1, IMG, IMG, requires_grad=True))
    assert not output.logits.requires_grad
    assert not output.features.requires_grad
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("module", [ENCODER, FULL])
def test_both_teachers_run_the_fast_encoder(frozen, trainable, adapter_file, module):
    assert all(isinstance(block, FastBlock) for block in trainable(module=module).sam.image_encoder.blocks)
    assert all(isinstance(block, FastBlock) for block in frozen().sam.image_encoder.blocks)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("module", [ENCODER, FULL, DECODER_ONLY])
def test_what_fine_tuning_writes_is_what_distillation_reads(trainable, frozen, tmp_path, module, num_classes):
    tuned = tune(trainable(module=module, num_classes=num_classes))
    torch.save(tuned.best_state(), tmp_path / "best.pth")
    teacher = frozen(module=module, num_classes=num_classes, lora_checkpoint=str(tmp_path / "best.pth"))
    image = torch.rand(2, 1, IMG, IMG)
    with torch.no_grad():
        expected, untuned = tuned(image), trainable(module=module, num_classes=num_classes)(image)
    torch.testing.assert_close(teacher(image).logits, expected, atol=1e-4, rtol=1e-4)
    assert (expected - untuned).abs().max() > 1e-2
    state = tuned.best_state()
    assert all(tensor.any() for key, tensor in state.items() if key.startswith(("w_", "sa_", "cti_", "cit_", "fati_")))
    assert state["adaptation_mode"] == module


def test_spelling_of_the_reference_implementation_is_taken(trainable):
    assert trainable(module=f"model.{DECODER_ONLY}").module == DECODER_ONLY


def test_building_twice_from_a_seed_gives_the_same_new_tokens(trainable):
    image, logits = torch.rand(1, 1, IMG, IMG), []
    for _ in range(2):
        torch.manual_seed(5)
        logits.append(trainable(num_classes=5)(image))
    assert torch.equal(*logits)


def test_normalization_follows_the_model(trainable, tmp_path, monkeypatch):
    assert trainable(module=DECODER_ONLY).mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert trainable(module=DECODER_ONLY, normalization="sam").mean[0, 0, 0, 0] == pytest.approx(123.675 / 255)
    monkeypatch.setattr(teacher_module, "load_lite_medsam", lambda sam, path: None)
    lite = build_tunable("lite_medsam", DECODER_ONLY)
    assert not lite.mean.any()
    assert lite.std.eq(1).all()


def test_decoder_trains_from_cached_embeddings(trainable, tmp_path):
    teacher = trainable(module=DECODER_ONLY, cache_dir=str(tmp_path))
    image = torch.rand(2, 1, IMG, IMG)
    for _ in range(2):
        teacher.zero_grad()
        teacher(image).mean().backward()
        assert all(p.grad is None for p in teacher.sam.image_encoder.parameters())
        assert teacher.sam.mask_decoder.mask_tokens.weight.grad.any()
    assert (teacher.embeddings.hits, teacher.embeddings.misses) == (2, 2)


@pytest.mark.parametrize("module", [ENCODER, FULL])
def test_cache_for_an_encoder_that_trains_is_refused(trainable, tmp_path, module):
    with pytest.raises(
        ValueError, match="teacher::cache_dir needs a frozen image encoder.* pass --teacher::module mask_decoder"
    ):
        trainable(module=module, cache_dir=str(tmp_path))


@pytest.mark.parametrize("use", [FrozenTeacher.load, lambda teacher: teacher.key, lambda teacher: teacher.description])
def test_missing_adapter_is_refused_at_the_first_use_with_the_id_that_fixes_it(checkpoint, use):
    teacher = FrozenTeacher(SIZE, img_size=IMG, sam_checkpoint=checkpoint)
    with pytest.raises(ValueError) as error:
        use(teacher)
    assert str(error.value) == (
        "teacher.lora_checkpoint is required for distillation; pass --teacher::lora_checkpoint PATH."
    )


def test_section_keeps_the_folder_of_its_cache(checkpoint, tmp_path):
    options = {"img_size": IMG, "sam_checkpoint": checkpoint}
    assert FrozenTeacher(SIZE, **options, cache_dir=str(tmp_path)).cache_dir == str(tmp_path)
    assert FrozenTeacher(SIZE, **options).cache_dir is None


@pytest.mark.parametrize("module", [ENCODER, FULL, DECODER_ONLY])
def test_fine_tuning_goes_on_from_an_adapter(trainable, tmp_path, module):
    tuned, path = tune(trainable(module=module)), tmp_path / "best.pth"
    torch.save(tuned.best_state(), path)
    further = trainable(module=module, lora_checkpoint=str(path))
    image = torch.rand(2, 1, IMG, IMG)
    with torch.no_grad():
        assert torch.equal(further.eval()(image), tuned(image))
        assert not torch.equal(trainable(module=module).eval()(image), tuned(image))
    trained = [
        {name for name, weight in teacher.named_parameters() if weight.requires_grad} for teacher in (tuned, further)
    ]
    assert trained[0] == trained[1] != set()


def test_fine_tuning_goes_on_from_one_adapter_that_fits(trainable, adapter_file):
    with pytest.raises(ValueError, match="names 2 adapters, but a fine-tuning goes on from one; name one, or null"):
        trainable(lora_checkpoint=[adapter_file, adapter_file])
    with pytest.raises(ValueError, match="has LoRA rank 4, but teacher::rank is 2; pass --teacher::rank 4"):
        trainable(lora_checkpoint=adapter_file, rank=2)


def test_flips_of_a_fine_tuning_are_refused(trainable):
    with pytest.raises(ValueError, match="teacher::flips is for a frozen teacher; leave it false in train_teacher"):
        trainable(flips=True)


@pytest.mark.parametrize("build", [build_tunable, build_frozen])
def test_missing_base_is_refused(adapter_file, build, tmp_path):
    options = {"lora_checkpoint": adapter_file} if build is build_frozen else {}
    with pytest.raises(
        ValueError, match="teacher::sam_checkpoint is required for vit_test; pass --teacher::sam_checkpoint PATH"
    ):
        build(SIZE, img_size=IMG, **options)
    with pytest.raises(FileNotFoundError, match="teacher::sam_checkpoint .*gone.pth does not exist"):
        build(SIZE, img_size=IMG, sam_checkpoint=str(tmp_path / "gone.pth"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name": "vit_x"}, "teacher::model_name must be one of vit_b, vit_l, vit_h, .*lite_medsam, got 'vit_x'"),
        ({"img_size": 100}, "teacher::img_size must be a positive multiple of 16, got 100"),
        (
            {"model_name": "lite_medsam", "img_size": 62},
            "teacher::img_size must be .* multiple of 4 for lite_medsam, got 62",
        ),
        ({"normalization": "zscore"}, "teacher::normalization must be one of imagenet, sam, unit, got 'zscore'"),
        ({"mask_tokens": "best"}, "teacher::mask_tokens must be one of single, multimask, all, got 'best'"),
        (
            {"mask_tokens": "single", "num_classes": 3},
            "single is for two classes, got data::num_classes 3; pass --teacher::mask",
        ),
        ({"num_classes": 1}, "data::num_classes must be an integer of at least 2 .*, got 1"),
        ({"module": "lora"}, "teacher::module must be one of .*, got 'lora'"),
    ],
)
def test_option_out_of_range_is_refused_by_both(options, message, adapter_file, checkpoint, monkeypatch):
    def fail(*args):
        raise AssertionError("the base was read before the options were checked")

    monkeypatch.setattr(teacher_module, "load_sam_checkpoint", fail)
    options = {"model_name": SIZE, "module": DECODER_ONLY, "img_size": IMG, "sam_checkpoint": checkpoint, **options}
    with pytest.raises(ValueError, match=message):
        build_tunable(**options)
    with pytest.raises(ValueError, match=message):
        build_frozen(lora_checkpoint=adapter_file, **options)


def test_decoder_lora_for_lite_medsam_is_refused(monkeypatch):
    monkeypatch.setattr(teacher_module, "load_lite_medsam", lambda sam, path: None)
    with pytest.raises(
        ValueError, match=f"{FULL} has no LoRA for the image encoder LiteMedSamEncoder; pass .* {ENCODER} or mask_d"
    ):
        build_tunable("lite_medsam", FULL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 8}, "has LoRA rank 4, but teacher::rank is 8; pass --teacher::rank 4"),
        ({"module": FULL}, f"was tuned as {ENCODER}, but teacher::module is {FULL}"),
        (
            {"num_classes": 3},
            "has 3 mask tokens, that is 2 classes, but the teacher is built for 3; check data::num_classes",
        ),
        ({"mask_tokens": "all"}, "check data::num_classes and teacher::mask_tokens"),
    ],
)
def test_adapter_of_another_config_is_refused(frozen, options, message):
    with pytest.raises(ValueError, match=message):
        frozen(**options)


def test_adapter_of_another_sam_size_is_refused(frozen, adapter_file, tmp_path):
    state = torch.load(adapter_file)
    state = {
        key: value for key, value in state.items() if not key.startswith(("w_a_002", "w_b_002", "w_a_003", "w_b_003"))
    }
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(
        ValueError, match="is LoRA for an unknown size .*1 blocks.*, but teacher::model_name is vit_test"
    ):
        frozen(lora_checkpoint=str(tmp_path / "short.pth"))


@pytest.mark.parametrize("name", ["sam_checkpoint", "lora_checkpoint"])
def test_student_given_as_teacher_is_refused(frozen, tmp_path, name):
    student = TinyUSFMSeg(img_size=32, embed_dim=16, depth=4, num_heads=2, out_indices=(0, 1, 2, 3), channels=8)
    torch.save(student.state_dict(), tmp_path / "student.pth")
    with pytest.raises(ValueError, match=f"teacher::{name} .*is a TinyUSFM student .*; it is for student::checkpoint"):
        frozen(**{name: str(tmp_path / "student.pth")})


def test_adapter_given_as_base_is_refused(frozen, adapter_file):
    with pytest.raises(
        ValueError, match="teacher::sam_checkpoint .*is a LoRA adapter .*; it is for teacher::lora_checkpoint"
    ):
        frozen(sam_checkpoint=adapter_file)


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (1, 2, 64, 64)])
def test_image_of_another_shape_is_refused(base, shape):
    with pytest.raises(ValueError, match=r"teacher images must be \(B, 1 or 3, H, W\), got \("):
        SamTeacher(base, IMG)(torch.rand(shape))


def test_another_img_size_than_the_encoders_is_refused(base):
    with pytest.raises(ValueError, match="teacher::img_size is 128, but the image encoder reads 64 pixels"):
        SamTeacher(base, 128)


def test_teacher_options_are_checked_where_the_class_is_used_alone(base):
    with pytest.raises(ValueError, match="teacher::normalization must be one of imagenet, sam, unit, got 'x'"):
        SamTeacher(base, IMG, "x")
    with pytest.raises(ValueError, match="teacher::mask_tokens must be one of single, multimask, all, got 'x'"):
        SamTeacher(base, IMG, mask_tokens="x")


@pytest.mark.parametrize(("arguments", "tokens"), [((2, "single"), 3), ((4, "multimask"), 5), ((4, "all"), 4)])
def test_token_count_is_that_of_the_reference_implementation(arguments, tokens):
    assert count_mask_tokens(*arguments) == tokens


@torch.no_grad()
@pytest.mark.parametrize("img_size", [256, 168])
def test_lite_medsam_is_a_teacher_of_the_same_form(img_size, tmp_path):
    tiny = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    sam = build_lite_medsam(3, img_size, **tiny).requires_grad_(False).eval()
    output = SamTeacher(sam, img_size, "unit")(torch.rand(2, 1, 224, 224))
    side = img_size // 4
    assert output.logits.shape == (2, 1, img_size, img_size)
    assert output.features.shape == (2, 256, side, side)
    save_checkpoint_file(adapter_state(sam, DECODER_ONLY), tmp_path / "x.pth", DECODER_ONLY)
    frozen = FrozenTeacher("lite_medsam", DECODER_ONLY, img_size, lora_checkpoint=str(tmp_path / "x.pth"))
    assert output.features.shape[1:] == frozen.feature_shape
    assert frozen.mask_shape == (1, 4 * side, 4 * side)
