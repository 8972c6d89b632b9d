"""Names of the files that inference reads and writes.

| image | outputs |
|---|---|
| NAME.png, .jpg, .bmp, .tif | NAME_mask.png, NAME_overlay.png |
| NAME.nii, .nii.gz | NAME_mask.nii.gz, NAME_overlay.png, or .gif of a loop |
| a DICOM still | NAME_mask.png, NAME_overlay.png |
| a DICOM loop | NAME_mask.nii.gz, NAME_overlay.gif |
| DICOM with output_format dicom_seg | NAME_mask.dcm and the overlay |

Outputs of an image in a subfolder of dataset_dir go into the same subfolder of output_dir.
"""

from __future__ import annotations

from pathlib import Path

from ..data.dicom import SUFFIXES as DICOM
from ..data.dicom import is_dicom

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii.gz", ".nii")
LESIONS_FILE, RUN_FILE = "lesions.csv", "run.json"
AUTO_FORMAT, DICOM_SEG = OUTPUT_FORMATS = ("auto", "dicom_seg")


def is_image(path: str | Path) -> bool:
    """Whether inference reads a file, by its name or, for DICOM without an ending, by its first bytes."""
    name = Path(path).name
    return not name.startswith(".") and (name.lower().endswith(PICTURES + VOLUMES) or is_dicom(path))


def relative_path(image: str | Path, dataset_dir: str | Path | None) -> Path:
    """Path of an image in the folder of all images: its name alone where that is the image itself, or None.

    Raises:
        ValueError: the image lies elsewhere.
    """
    image = Path(image)
    if dataset_dir is None or image == Path(dataset_dir):
        return Path(image.name)
    relative = image.relative_to(dataset_dir)
    if ".." in relative.parts:
        raise ValueError(f"image {image} does not lie in {dataset_dir}; give its own folder as dataset_dir.")
    return relative


def output_path(
    image: str | Path, output_dir: str | Path, postfix: str, suffix: str, dataset_dir: str | Path | None = None
) -> Path:
    """output_dir/SUBFOLDER/NAME_postfix.suffix, where NAME is the image's name without its ending.

    Args:
        image: file.
        output_dir: folder.
        postfix: of the name.
        suffix: of the name.
        dataset_dir: folder of the images, whose subfolders the outputs keep; None has none.
    """
    relative = relative_path(image, dataset_dir)
    name = relative.name
    ending = next((s for s in PICTURES + VOLUMES + DICOM if name.lower().endswith(s)), "")
    return Path(output_dir) / relative.parent / f"{name[: len(name) - len(ending)]}_{postfix}{suffix}"


def mask_path(
    image: str | Path,
    output_dir: str | Path,
    postfix: str = "mask",
    loop: bool = False,
    output_format: str = AUTO_FORMAT,
    dataset_dir: str | Path | None = None,
) -> Path:
    """Where the mask of an image goes, see the table of this module.

    Args:
        image: file.
        output_dir: folder.
        postfix: of the name.
        loop: the image is a DICOM with several frames.
        output_format: one of OUTPUT_FORMATS.
        dataset_dir: as in `output_path`.
    """
    name = Path(image).name.lower()
    if name.endswith(VOLUMES):
        suffix = ".nii.gz"
    elif name.endswith(PICTURES):
        suffix = ".png"
    else:
        suffix = ".dcm" if output_format == DICOM_SEG else ".nii.gz" if loop else ".png"
    return output_path(image, output_dir, postfix, suffix, dataset_dir)


def overlay_path(
    image: str | Path, output_dir: str | Path, loop: bool = False, dataset_dir: str | Path | None = None
) -> Path:
    """Where the overlay of an image goes, see the table of this module."""
    return output_path(image, output_dir, "overlay", ".gif" if loop else ".png", dataset_dir)


def possible_outputs(
    image: str | Path,
    output_dir: str | Path,
    postfix: str = "mask",
    output_format: str = AUTO_FORMAT,
    dataset_dir: str | Path | None = None,
) -> list[Path]:
    """Every file that one image may give, as a still and as a loop. Masks come first."""
    masks = [mask_path(image, output_dir, postfix, loop, output_format, dataset_dir) for loop in (False, True)]
    overlays = [overlay_path(image, output_dir, loop, dataset_dir) for loop in (False, True)]
    return list(dict.fromkeys(masks + overlays))


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
            f"output {path} already exists; pass --resume True to go on with the run that wrote it or --overwrite True "
            "to replace it, or choose another output_dir."
        )
