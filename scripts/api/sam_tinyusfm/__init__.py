"""Ultrasound segmentation by a student of 6 M parameters.

    import sam_tinyusfm

    student = sam_tinyusfm.load()
    result = student.segment("image.png")

An installation has the bundle in this folder: configs/, models/, scripts/ and eval/. The modules of scripts/ are there
under this package's name, such as `sam_tinyusfm.losses`. Heavy libraries are imported when they are used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
# an installation has scripts/ in this folder; a checkout has this folder in scripts/api/
_SCRIPTS = _HERE / "scripts" if (_HERE / "scripts").is_dir() else _HERE.parents[1]
if "." not in __name__:  # below scripts/ it would hold itself, and a walk over the modules would not end
    __path__.append(str(_SCRIPTS))
    import_module(".utils.telemetry", __name__).switch_reports_off()

_HOMES = {
    "load": ".api.student",
    "Student": ".api.student",
    "Result": ".api.result",
    "Lesion": ".api.result",
    "StudentForSegmentation": ".share.pretrained",
}
__all__ = ["Lesion", "Result", "Student", "StudentForSegmentation", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
