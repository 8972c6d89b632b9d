"""The file that holds how sure the student is of each unlabeled image, written by `scoring`, read by `strategy`.

It is no part of MONAI Label's own datastore: scoring runs in a process of its own, and a datastore that two processes
write can lose a label. Needs neither torch nor MONAI.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..utils.digests import file_digest, text_digest
from ..utils.files import atomic_path

logger = logging.getLogger(__name__)


@dataclass
class Scores:
    """What one student says of the images of one folder of studies.

    Args:
        student: SHA-256 of its file.
        sure: by image, see `order.sureness`.
        unreadable: by image why it could not be segmented.
    """

    student: str
    sure: dict[str, float] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def lacking(self, images: list[str]) -> list[str]:
        """Those of the images of which nothing is known."""
        return [image for image in images if image not in self.sure and image not in self.unreadable]


class ScoreFile:
    """Scores of the student in a bundle, for one folder of studies.

    Args:
        bundle: folder of the bundle; the student is its models/model.pt, the scores lie in logs/labeling.
        studies: folder or address of MONAI Label's studies. Each has a file of its own, since their images may have the
            same names.
    """

    def __init__(self, bundle: str | Path, studies: str) -> None:
        self.model = Path(bundle) / "models" / "model.pt"
        self.path = Path(bundle) / "logs" / "labeling" / f"scores_{text_digest(studies, 8)}.json"

    def student(self) -> str:
        """SHA-256 of the student's file as it is now; an empty text where there is none."""
        try:
            stat = self.model.stat()
        except FileNotFoundError:
            return ""
        return _digest(self.model, stat.st_mtime_ns, stat.st_size)

    def read(self) -> Scores:
        """The scores of the current student: none where there is no file, it is damaged, or of another student."""
        student = self.student()
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            known = Scores(str(content["student"]), _floats(content["sure"]), dict(content["unreadable"]))
        except FileNotFoundError:
            return Scores(student)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is damaged (%s) and not used; the next scoring writes it anew", self.path.name, error)
            return Scores(student)
        if known.student != student:
            logger.info("the scores are of a former student: %d images are to be scored anew", len(known.sure))
            return Scores(student)
        return known

    def write(self, scores: Scores) -> None:
        """Put them in the place of the former ones, in one step."""
        with atomic_path(self.path) as partial:
            partial.write_text(json.dumps(vars(scores), indent=1) + "\n", encoding="utf-8")


@lru_cache(maxsize=4)
def _digest(path: Path, modified: int, size: int) -> str:
    """Of a file that was modified then and has that size: a digest reads 25 MB, and a request should not wait."""
    return file_digest(path)


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}
