import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, Invertd, Resized

from scripts.data.transforms import LabelToClassesd, ToRowsFirstd


def test_rows_first_transposes_plain_tensors():
    columns_first = torch.rand(1, 7, 5)
    result = ToRowsFirstd("image")({"image": columns_first})["image"]
    assert torch.equal(torch.as_tensor(result), columns_first.transpose(1, 2))


def test_rows_first_swaps_the_affine():
    image = MetaTensor(torch.rand(1, 7, 5), affine=torch.diag(torch.tensor([0.1, 0.2, 1.0, 1.0])))
    affine = ToRowsFirstd("image")({"image": image})["image"].affine
    row_step = affine @ torch.tensor([1, 0, 0, 0.0], dtype=affine.dtype)
    assert row_step.tolist() == pytest.approx([0, 0.2, 0, 0])


def test_invertd_undoes_rows_first_and_resize():
    affine = torch.tensor([[0.1, 0, 0, 3], [0, 0.2, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    image = MetaTensor(torch.rand(1, 30, 20), affine=affine)
    forward = Compose([ToRowsFirstd("image"), Resized("image", (40, 60)), EnsureTyped("image", track_meta=True)])
    batch = forward({"image": image})
    assert batch["image"].shape == (1, 40, 60)
    batch["pred"] = torch.as_tensor(batch["image"]) * 1.0
    inverted = Invertd("pred", forward, orig_keys="image", nearest_interp=False)(batch)["pred"]
    assert inverted.shape == (1, 30, 20)
    assert torch.allclose(inverted.affine, affine.double(), atol=1e-6)
    assert (inverted.as_tensor() - image.as_tensor()).abs().mean() < 0.1


def test_rows_first_is_inverted_exactly():
    image = MetaTensor(torch.rand(1, 30, 20))
    transform = ToRowsFirstd("image")
    assert torch.equal(transform.inverse(transform({"image": image}))["image"].as_tensor(), image.as_tensor())


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 255.0], [0.0], [1.0], [255.0]])
def test_binary_labels_are_0_1_or_0_255(values):
    label = LabelToClassesd("label", 2)({"label": torch.tensor([[values]])})["label"]
    assert label.tolist() == [[[float(value > 0) for value in values]]]


@pytest.mark.parametrize("values", [[0, 2], [0, 7], [2], [0, 1, 255], [1, 255], [-1, 0], [-1, 1], [0, 0.5], [0.5, 1]])
def test_other_binary_labels_are_refused_with_their_file(values):
    label = MetaTensor(torch.tensor([[values]], dtype=torch.float32), meta={"filename_or_obj": "case.png"})
    shown = ", ".join(f"{value:g}" for value in values)
    message = (
        f"label case.png holds the values {shown}; expected 0 and 1, or 0 and 255, for data::num_classes 2: correct "
        f"the mask"
    )
    with pytest.raises(ValueError, match=message):
        LabelToClassesd("label", 2)({"label": label})


def test_many_wrong_values_are_listed_in_part():
    with pytest.raises(ValueError, match="holds the values 0, 1, .*, 9 and 3 more; expected"):
        LabelToClassesd("label", 2)({"label": torch.arange(13.0)})


def test_class_labels_are_kept():
    label = torch.tensor([[[0.0, 1.0, 2.0]]])
    assert torch.equal(LabelToClassesd("label", 3)({"label": label})["label"], label)


@pytest.mark.parametrize("value", [3.0, -1.0, 0.5])
def test_label_outside_the_classes_is_refused_with_its_file(value):
    label = MetaTensor(torch.tensor([[[0.0, value]]]), meta={"filename_or_obj": "case.png"})
    with pytest.raises(
        ValueError, match=rf"label case.png holds the values .*{value:g}.*; expected .* 0..2 .*data::num_classes"
    ):
        LabelToClassesd("label", 3)({"label": label})


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="data::num_classes must be at least 2 .*, got 1"):
        LabelToClassesd("label", 1)
