"""The contenders: what is compared, in the order in which it runs. Each runs in a process of its own, by its name.

Names on a GPU start with `cuda_`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch

from .bundle_runs import fill, train
from .cache_reads import look, read_batches
from .data_sets import keep_items
from .reference_loop import reference_loop
from .settings import LITE_MEDSAM, Settings
from .students import BF16, EXPORTS, FP32, OURS, export, infer, train_step
from .teachers import VARIANTS, teacher_pass, write_weights

GPU = "cuda_"
KEPT = "_kept_memory"  # the end of the names of those that get our allocator, to tell what that alone gives
ONLINE_EPOCHS = 3  # they are long, and the first one counts


class Contender(NamedTuple):
    """A name, the function that gives its figures, that function's options, and the contenders that must run before."""

    name: str
    run: Callable[..., dict[str, float]]
    options: dict[str, Any]
    needs: tuple[str, ...] = ()
    device: str = "cpu"


def list_contenders(settings: Settings) -> list[Contender]:
    """All of them, those on the GPU last, where there is one."""
    contenders = [Contender(f"weights_{model}", write_weights, {"model": model}) for model in _models(settings)]
    on_device = _trainings(settings) + _references(settings) + _teachers(settings) + _students()
    contenders += on_device + _exports() + _data_sizes(settings) + _scaling(settings)
    if torch.cuda.is_available() and not settings.quick:
        contenders += [
            _on_gpu(contender) for contender in on_device if not contender.name.endswith(KEPT)
        ]  # it is the CPU's
    return contenders


def run_contender(contender: Contender, settings: Settings) -> dict[str, float]:
    """Its figures, computed in this process."""
    torch.set_num_threads(settings.threads)
    return contender.run(replace(settings, device=contender.device), **contender.options)


def select(contenders: list[Contender], patterns: list[str] | None) -> list[Contender]:
    """Those whose names match, and those that they need; all of them without patterns.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    if not patterns:
        return contenders
    by_name, wanted = {contender.name: contender for contender in contenders}, set()
    for pattern in patterns:
        names = [name for name in by_name if fnmatchcase(name, pattern)]
        if not names:
            raise ValueError(f"--only {pattern} matches no contender; there are {', '.join(by_name)}.")
        wanted.update(names)
    while missing := {need for name in wanted for need in by_name[name].needs} - wanted:
        wanted |= missing
    return [contender for contender in contenders if contender.name in wanted]


def _trainings(settings: Settings) -> list[Contender]:
    """The bundle's own; the control runs before and after the cached ones, so that the drift of the machine shows."""
    contenders = [_training("control")]
    for model in settings.models:
        contenders += _cached(f"replay_{model}", "replay", model, settings)
    contenders += _cached("warp_vit_b", "warp", "vit_b", settings)
    online = _training(
        "online_vit_b", "weights_vit_b", mode="online", model="vit_b", epochs=min(ONLINE_EPOCHS, settings.epochs)
    )
    return [*contenders, _training("control_repeat"), online]


def _training(name: str, *needs: str, **options: Any) -> Contender:
    return Contender(name, train, {"name": name, **options}, needs)


def _cached(name: str, mode: str, model: str, settings: Settings) -> list[Contender]:
    """The fill of a cache, and the training that reads it."""
    filling = _fill(f"fill_{name}", mode, model, settings.num_images)
    return [filling, _training(name, filling.name, mode=mode, model=model)]


def _fill(name: str, mode: str, model: str, num_images: int) -> Contender:
    options = {"name": name, "mode": mode, "model": model, "num_images": num_images}
    return Contender(name, fill, options, (f"weights_{model}",))


def _references(settings: Settings) -> list[Contender]:
    """The reference loops."""
    contenders = [
        Contender(f"reference_{model}", reference_loop, {"model": model}, (f"weights_{model}",))
        for model in settings.models
    ]
    return contenders + [_kept(contender) for contender in contenders]


def _kept(contender: Contender) -> Contender:
    return contender._replace(name=f"{contender.name}{KEPT}", options={**contender.options, "keep_memory": True})


def _teachers(settings: Settings) -> list[Contender]:
    contenders = []
    for model in _models(settings):
        for variant in VARIANTS:
            needs = (f"weights_{model}",) + ((f"teacher_{model}_{VARIANTS[0]}",) if variant != VARIANTS[0] else ())
            contenders.append(
                Contender(f"teacher_{model}_{variant}", teacher_pass, {"model": model, "variant": variant}, needs)
            )
    return [
        *contenders,
        *(_kept(contender) for contender in contenders if contender.name == f"teacher_vit_b_{VARIANTS[0]}"),
    ]


def _students() -> list[Contender]:
    steps = [Contender(f"student_step_{variant}", train_step, {"variant": variant}) for variant in (FP32, OURS)]
    first = Contender("student_infer_fp32", infer, {"variant": FP32}, ("control",))
    bf16 = Contender("student_infer_bf16", infer, {"variant": BF16}, ("control", first.name))
    return [*steps, _kept(steps[0]), first, bf16]


def _exports() -> list[Contender]:
    """On the CPU alone."""
    needs = ("student_infer_fp32", "exports")
    variants = [Contender(f"student_infer_{variant}", infer, {"variant": variant}, needs) for variant in EXPORTS]
    return [Contender("exports", export, {}, ("control",)), *variants]


def _data_sizes(settings: Settings) -> list[Contender]:
    """What grows with the data set, and the reading of a cache; on the CPU alone."""
    reads = [
        Contender("cache_read", read_batches, {"features": False}),
        Contender("cache_read_features", read_batches, {"features": True}),
    ]
    looks = [Contender(f"cache_look_{count}", look, {"count": count}) for count in settings.data_counts]
    return reads + looks + [Contender(f"data_{count}", keep_items, {"count": count}) for count in settings.data_counts]


def _scaling(settings: Settings) -> list[Contender]:
    """Further points of the fits; those at the run's own sizes are contenders already."""
    contenders = []
    for size in settings.student_sizes:
        if size != settings.img_size:
            contenders.append(Contender(f"student_step_ours_{size}", train_step, {"variant": OURS, "img_size": size}))
    for size in settings.teacher_sizes:
        if size != settings.teacher_size:
            options = {"model": "vit_b", "variant": "fast_fp32", "img_size": size}
            contenders.append(Contender(f"teacher_vit_b_fast_fp32_{size}", teacher_pass, options, ("weights_vit_b",)))
    counts = [count for count in settings.image_counts if count != settings.num_images]
    return contenders + [_fill(f"fill_replay_vit_b_{count}", "replay", "vit_b", count) for count in counts]


def _models(settings: Settings) -> tuple[str, ...]:
    return tuple(settings.models) if settings.quick else (*settings.models, LITE_MEDSAM)


def _on_gpu(contender: Contender) -> Contender:
    needs = tuple(need if need.startswith("weights_") else f"{GPU}{need}" for need in contender.needs)
    return contender._replace(name=f"{GPU}{contender.name}", needs=needs, device="cuda")
