"""Files and values that somebody has made to do harm."""

from __future__ import annotations

import csv
import os
import pickle

from faults.images import TABLE
from faults.table import fault

from scripts.share.manifest import MANIFEST, digest, write_manifest

MASKS = (*TABLE, "masks/*_mask.png", "masks/*_overlay.png")
CHECK = ["scripts/share/manifest.py", "bundle"]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("hacked",)


def shared_bundle(place) -> None:
    """A folder with a list of its files."""
    (place / "bundle" / "scripts").mkdir(parents=True)
    (place / "bundle" / "scripts" / "a.py").write_text("print('a')\n")
    (place / "bundle" / "README.md").write_text("a bundle\n")
    write_manifest(place / "bundle")


@fault("security", "a checkpoint whose pickle runs code", "inference", r"bomb\.pt cannot be read")
def pickle_runs_code(place):
    place.images("a.png")
    (place / "bomb.pt").write_bytes(pickle.dumps({"state_dict": Bomb()}))
    yield place.inference("--checkpoint", "bomb.pt")


@fault(
    "security", "a shared bundle of which a script was changed", "check of a bundle", r"bundle is not what was shared"
)
def tampered_bundle(place):
    shared_bundle(place)
    (place / "bundle" / "scripts" / "a.py").write_text("print('b')\n")
    outcome = yield CHECK
    assert "changed     scripts/a.py" in outcome.stderr


@fault("security", 'an empty checksum, --sha256 ""', "check of a bundle", r"--sha256")
def empty_checksum(place):
    shared_bundle(place)
    yield [*CHECK, "--sha256", ""]


@fault(
    "security", "a list of a bundle that names a file outside of it", "check of a bundle", r"SHA256SUMS: \.\./secret"
)
def list_leaves_the_bundle(place):
    shared_bundle(place)
    (place / "secret").write_text("secret\n")
    with open(place / "bundle" / MANIFEST, "a") as file:
        file.write(f"{digest(place / 'secret')}  ../secret\n")
    yield CHECK


@fault("security", "a file name that MONAI's configuration would run as code", "inference", code=0, writes=MASKS)
def name_runs_code(place):
    name = "$__import__('os').mkdir('hacked')"
    place.images(f"{name}.png")
    yield place.inference()
    assert (place / "masks" / f"{name}_mask.png").is_file()


@fault("security", "a file name that a spreadsheet would run, in lesions.csv", "inference", code=0, writes=MASKS)
def name_runs_in_a_spreadsheet(place):
    place.images("=HYPERLINK(0).png")
    yield place.inference()
    with open(place / "masks" / "lesions.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert [cell for cell in cells if cell.startswith(("=", "+", "@", "\t"))] == []
