"""Images as the check of a data set sees them: as a training does."""

import nibabel
import numpy as np
import pytest

from scripts.check_data.cases import read_gray
from scripts.data.readers import GrayImageReader


def test_nifti_with_a_window_is_seen_as_a_training_sees_it(tmp_path):
    pixels = np.linspace(-100, 400, 48 * 40).reshape(48, 40).astype(np.float32)
    volume = nibabel.Nifti1Image(pixels, np.eye(4))
    volume.header["cal_min"], volume.header["cal_max"] = 0, 100
    nibabel.save(volume, tmp_path / "image.nii.gz")
    gray, kind = read_gray(tmp_path / "image.nii.gz")
    expected, _ = GrayImageReader().get_data((tmp_path / "image.nii.gz",))
    assert kind == "NIfTI"
    assert gray.mean() == pytest.approx(expected.mean(), abs=1e-6)
    np.testing.assert_allclose(gray, expected.T, atol=1e-6)
