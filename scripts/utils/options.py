"""Config sections that only hold a user's choices: their constructors are the schema of their keys."""

from __future__ import annotations

from dataclasses import dataclass

# where the teacher's outputs come from, see teacher_cache.py
ONLINE, REPLAY, WARP = MODES = ("online", "replay", "warp")
# which of the student's features are compared with the teacher's embedding: the neck's stride-16 level, or the last
# block's output
NECK, BACKBONE = STUDENT_FEATURES = ("neck", "backbone")


@dataclass
class Student:
    """The section `student`; `network_def` is built from it.

    Args:
        model_name: TinyUSFM_Seg.
        pretrained: start from `checkpoint`.
        checkpoint: a TinyUSFM file.
        initialization: without a checkpoint, `mimetic` or `random`, see networks/initialization.py.
    """

    model_name: str = "TinyUSFM_Seg"
    pretrained: bool = True
    checkpoint: str | None = None
    initialization: str = "mimetic"
