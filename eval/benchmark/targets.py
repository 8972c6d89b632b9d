"""The targets: ratios of figures measured in one run, and what each must reach; some of them with one allocator too,
without a target.
"""

from __future__ import annotations

from statistics import mean
from typing import Any, NamedTuple

from .settings import SAM_NAMES
from .students import BF16, EXPORTS, FP32

Figures = dict[str, dict[str, Any]]
MOST_DICE_CHANGE = 0.002


class Target(NamedTuple):
    """A figure, over another where there is one, and the limit it must keep.

    figure, over: contender.figure. sign: `>=` or `<=`.
    """

    name: str
    figure: str
    over: str | None
    sign: str
    limit: float


class Ratio(NamedTuple):
    """A figure over another, without a limit; see `Target`."""

    name: str
    figure: str
    over: str


def _cached_targets() -> list[Target]:
    """Of epochs with a complete cache, against the control and the reference."""
    names = (*(f"replay_{model}" for model in SAM_NAMES), "warp_vit_b")
    targets = [
        Target(
            f"epoch: {name}, its cache complete / control",
            f"{name}.epoch_seconds",
            "control_mean.epoch_seconds",
            "<=",
            1.05,
        )
        for name in names
    ]
    for model, limit in zip(SAM_NAMES, (10, 35, 70)):
        reference, ours = f"reference_{model}.epoch_seconds", f"replay_{model}.epoch_seconds"
        targets.append(Target(f"epoch: reference / ours, its cache complete, {model}", reference, ours, ">=", limit))
    return targets


STOCK, FAST, BF16_FAST = "teacher_vit_b_stock_fp32", "teacher_vit_b_fast_fp32", "teacher_vit_b_fast_bf16"
TARGETS = (
    *_cached_targets(),
    Target(
        "first epoch: ours online / reference, vit_b",
        "online_vit_b.first_epoch_seconds",
        "reference_vit_b.epoch_seconds",
        "<=",
        0.35,
    ),
    Target("teacher vit_b: stock / fast, fp32", f"{STOCK}.image_seconds", f"{FAST}.image_seconds", ">=", 1.6),
    Target("teacher vit_b: fast fp32, max difference of the logits", f"{FAST}.max_difference", None, "<=", 1e-4),
    Target("teacher vit_b: the same, in deviations of the logits", f"{FAST}.scaled_difference", None, "<=", 1e-4),
    Target("teacher vit_b: stock fp32 / fast bf16", f"{STOCK}.image_seconds", f"{BF16_FAST}.image_seconds", ">=", 4),
    Target("teacher vit_b: fast bf16, Dice of its masks with stock's", f"{BF16_FAST}.mask_dice", None, ">=", 0.995),
    Target(
        "student train step: fp32 eager / ours",
        "student_step_fp32.step_seconds",
        "student_step_ours.step_seconds",
        ">=",
        1.7,
    ),
    Target(
        "student inference: fp32 eager / best variant",
        "student_infer_fp32.step_seconds",
        "best_variant.step_seconds",
        ">=",
        3,
    ),
    Target("student inference: change of Dice, best variant", "best_variant.dice_change", None, "<=", MOST_DICE_CHANGE),
    Target("cached batch of 16 with embeddings, seconds", "cache_read_features.batch_seconds", None, "<=", 0.001),
    Target(
        "cached batch with embeddings: a file an image / shards",
        "cache_read_features.file_seconds",
        "cache_read_features.float_seconds",
        ">=",
        5,
    ),
    Target("peak memory: the largest data set above the smallest, MB", "data_growth.extra_mb", None, "<=", 2000),
    Target("peak memory: replay_vit_h / control", "replay_vit_h.peak_mb", "control_mean.peak_mb", "<=", 1.1),
    Target("share of an epoch waiting for data, worst training", "worst_wait.data_wait", None, "<=", 0.05),
)


def _reference_ratio(model: str) -> Ratio:
    reference, ours = f"reference_{model}_kept_memory.epoch_seconds", f"replay_{model}.epoch_seconds"
    return Ratio(f"epoch: reference / ours, its cache complete, {model}", reference, ours)


STOCK_KEPT = f"{STOCK}_kept_memory.image_seconds"
SAME_ALLOCATOR = (
    *map(_reference_ratio, SAM_NAMES),
    Ratio(
        "first epoch: ours online / reference, vit_b",
        "online_vit_b.first_epoch_seconds",
        "reference_vit_b_kept_memory.epoch_seconds",
    ),
    Ratio("teacher vit_b: stock / fast, fp32", STOCK_KEPT, f"{FAST}.image_seconds"),
    Ratio("teacher vit_b: stock fp32 / fast bf16", STOCK_KEPT, f"{BF16_FAST}.image_seconds"),
    Ratio(
        "student train step: fp32 eager / ours",
        "student_step_fp32_kept_memory.step_seconds",
        "student_step_ours.step_seconds",
    ),
)
TRAININGS = ("control", "control_repeat", *(f"replay_{model}" for model in SAM_NAMES), "warp_vit_b")


def judge(figures: Figures, prefix: str = "") -> list[dict[str, Any]]:
    """A row for each target: name, value, the limit, and whether it is met; value and met are None where a contender
    failed.

    Args:
        figures: of each contender, by name.
        prefix: of the names of one device.
    """
    figures = {name.removeprefix(prefix): values for name, values in figures.items() if name.startswith(prefix)}
    figures = {**figures, **derive(figures)}
    rows = []
    for target in TARGETS:
        value = _value(target, figures)
        met = None if value is None else value >= target.limit if target.sign == ">=" else value <= target.limit
        rows.append({"name": target.name, "value": value, "target": f"{target.sign} {target.limit:g}", "met": met})
    return rows


def compare_kept(figures: Figures) -> list[dict[str, Any]]:
    """Name and value of each ratio with our allocator on both sides; None where a contender failed. No targets: users
    have the reference loop as it comes.
    """
    return [{"name": ratio.name, "value": _value(ratio, figures)} for ratio in SAME_ALLOCATOR]


def derive(figures: Figures) -> Figures:
    """Figures that several contenders give together; those that failed are left out.

    control_mean: of the two controls, and the drift from the first to the second. best_variant: the fastest that keeps
    the Dice. worst_wait: the longest of all trainings. data_growth: memory of the largest synthetic data set above that
    of the smallest. payback: epochs after which the cache of vit_b has paid, the weights' loading included.
    """
    derived = {
        "control_mean": _mean_of_controls(figures),
        "best_variant": _best_variant(figures),
        "worst_wait": _worst_wait(figures),
        "data_growth": _data_growth(figures),
        "payback": _payback(figures),
    }
    return {name: values for name, values in derived.items() if values}


def _mean_of_controls(figures: Figures) -> dict[str, Any] | None:
    controls = _all(figures, ("control", "control_repeat"))
    if not controls:
        return None
    means = {key: mean(control[key] for control in controls) for key in ("epoch_seconds", "peak_mb")}
    return {**means, "drift": controls[-1]["epoch_seconds"] / controls[0]["epoch_seconds"] - 1}


def _best_variant(figures: Figures) -> dict[str, Any] | None:
    variants = {variant: _get(figures, f"student_infer_{variant}") for variant in (FP32, BF16, *EXPORTS)}
    kept = {variant: f for variant, f in variants.items() if f and f["dice_change"] <= MOST_DICE_CHANGE}
    best = min(kept, key=lambda variant: kept[variant]["step_seconds"], default=None)
    return {**kept[best], "variant": best} if best else None


def _worst_wait(figures: Figures) -> dict[str, Any] | None:
    waits = [training["data_wait"] for training in _all(figures, TRAININGS)]
    return {"data_wait": max(waits)} if waits else None


def _data_growth(figures: Figures) -> dict[str, Any] | None:
    sets = [values for name in figures if name.startswith("data_") and (values := _get(figures, name))]
    sets = sorted(sets, key=lambda values: values["images"])
    return {"extra_mb": sets[-1]["peak_mb"] - sets[0]["peak_mb"]} if len(sets) > 1 else None


def _payback(figures: Figures) -> dict[str, Any] | None:
    runs = _all(figures, ("fill_replay_vit_b", "online_vit_b", "replay_vit_b"))
    if len(runs) < 3:
        return None
    fill, online, replay = runs
    saved = online["epoch_seconds"] - replay["epoch_seconds"]
    return {"epochs": fill["fill_seconds"] / saved} if saved > 0 else None


def _all(figures: Figures, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [values for name in names if (values := _get(figures, name))]


def _get(figures: Figures, name: str) -> dict[str, Any] | None:
    values = figures.get(name)
    return None if values is None or "error" in values else values


def _value(target: Target | Ratio, figures: Figures) -> float | None:
    paths = [path.split(".") for path in (target.figure, target.over) if path]
    parts = [(_get(figures, contender) or {}).get(key) for contender, key in paths]
    if None in parts:
        return None
    return parts[0] if target.over is None else parts[0] / parts[1]
