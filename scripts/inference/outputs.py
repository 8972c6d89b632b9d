"""Names of the files that inference reads and writes.

| image | outputs |
|---|---|
| NAME.png, .jpg, .bmp, .tif | NAME_mask.png, NAME_overlay.png |
| NAME.nii, .nii.gz | NAME_mask.nii.gz, NAME_overlay.png, or .gif of a loop |
| a DICOM still | NAME_mask.png, NAME_overlay.png |
| a DICOM loop | NAME_mask.nii.gz, NAME_overlay.gif |
| DICOM with output_format dicom_seg | NAME_mask.dcm and the overlay |
"""

from __future__ import annotations

from pathlib import Path

from ..data.dicom import SUFFIXES as DICOM
from ..data.dicom import is_dicom

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii.gz", ".nii")
LESIONS_FILE = "lesions.csv"
AUTO_FORMAT, DICOM_SEG = OUTPUT_FORMATS = ("auto", "dicom_seg")


def is_image(path: str | Path) -> bool:
    """Whether inference reads a file, by its name or, for DICOM without an ending, by its first bytes."""
    name = Path(path).name
    return not name.startswith(".") and (name.lower().endswith(PICTURES + VOLUMES) or is_dicom(path))


def output_path(image: str | Path, output_dir: str | Path, postfix: str, suffix: str) -> Path:
    """output_dir/NAME_postfix.suffix, where NAME is the image's name without its ending."""
    name = Path(image).name
    ending = next((s for s in PICTURES + VOLUMES + DICOM if name.lower().endswith(s)), "")
    return Path(output_dir) / f"{name[: len(name) - len(ending)]}_{postfix}{suffix}"


def mask_path(
    image: str | Path,
    output_dir: str | Path,
    postfix: str = "mask",
    loop: bool = False,
    output_format: str = AUTO_FORMAT,
) -> Path:
    """Where the mask of an image goes, see the table of this module.

    Args:
        image: file.
        output_dir: folder.
        postfix: of the name.
        loop: the image is a DICOM with several frames.
        output_format: one of OUTPUT_FORMATS.
    """
    name = Path(image).name.lower()
    if name.endswith(VOLUMES):
        suffix = ".nii.gz"
    elif name.endswith(PICTURES):
        suffix = ".png"
    else:
        suffix = ".dcm" if output_format == DICOM_SEG else ".nii.gz" if loop else ".png"
    return output_path(image, output_dir, postfix, suffix)


def overlay_path(image: str | Path, output_dir: str | Path, loop: bool = False) -> Path:
    """Where the overlay of an image goes, see the table of this module."""
    return output_path(image, output_dir, "overlay", ".gif" if loop else ".png")


def possible_outputs(
    image: str | Path, output_dir: str | Path, postfix: str = "mask", output_format: str = AUTO_FORMAT
) -> list[Path]:
    """Every file that one image may give, as a still and as a loop. Masks come first."""
    masks = [mask_path(image, output_dir, postfix, loop, output_format) for loop in (False, True)]
    return list(dict.fromkeys(masks + [overlay_path(image, output_dir, loop) for loop in (False, True)]))


def check_output_format(output_format: str) -> None:
    """Refuse what is no format of masks.

    Raises:
        ValueError: it is none of OUTPUT_FORMATS.
    """
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(f"output_format must be one of {', '.join(OUTPUT_FORMATS)}, got {output_format!r}.")


def refuse_existing(path: Path) -> None:
    """Refuse to replace an output.

    Raises:
        FileExistsError: the file is there.
    """
    if path.exists():
        raise FileExistsError(
            f"output {path} already exists; remove it, choose another output_dir, or pass --overwrite True."
        )
