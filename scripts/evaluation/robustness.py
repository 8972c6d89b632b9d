"""What probes cost: the change of Dice, of failures and of misses against the unchanged images, paired on cases.

Probes are those of probes.py. Images without a lesion are left out here: nothing of theirs can be moved or missed.

Legend: S seeds of an arm, N cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import ignite.distributed as idist
import numpy as np
import torch
from torch.utils.data import Dataset

from ..metrics import case_dice, logits_to_classes
from ..utils.options import chosen_probes
from ..utils.screen import track
from .case_table import FAILED_DICE, MISSED_DICE, patient_key
from .evaluate import Arm, read_case, segment_case
from .probes import CENTERED, PROBES, apply_probe, offset_from_middle, without_ignored
from .statistics import cluster_bootstrap

UNCHANGED = "unchanged"
SCORES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "dice": lambda dice: dice,
    "failures": lambda dice: (dice < FAILED_DICE).astype(float),
    "misses": lambda dice: (dice < MISSED_DICE).astype(float),
}


class Probed(NamedTuple):
    """A case with a lesion, measured.

    Args:
        cluster: its patient, see `patient_key`.
        centered: whether its lesion lies near the middle.
        dice: by arm and seed, and by probe; a probe that leaves no lesion in the picture is not there.
    """

    cluster: tuple[str, str]
    centered: bool
    dice: dict[tuple[str, int], dict[str, float]]


class Selection(Dataset):
    """Some cases of a data set, with their entries.

    Args:
        dataset: see `evaluate`.
        indices: of the cases.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, list(indices)
        entries = getattr(dataset, "data", dataset)
        self.data = [entries[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]


def spread_cases(dataset: Dataset, most: int | None) -> Dataset:
    """At most so many cases, spread evenly over the list; the data set itself where it has no more, or for None.

    Raises:
        ValueError: a number that is not positive.
    """
    if most is not None and most < 1:
        raise ValueError(f"the number of cases must be positive, got {most}.")
    if most is None or len(dataset) <= most:
        return dataset
    return Selection(dataset, spread_indices(len(dataset), most))


def spread_indices(total: int, most: int) -> list[int]:
    """At most so many indices of a list, spread evenly over it, the first and the last among them."""
    return [int(index) for index in np.linspace(0, total - 1, min(most, total))]


def measure_probes(
    dataset: Dataset,
    arms: Sequence[Arm],
    num_classes: int,
    device: torch.device | str = "cpu",
    autocast: AbstractContextManager | None = None,
    probes: str | Sequence[str] = "all",
) -> dict[str, Any]:
    """The part `probes` of a report. Ranks share the cases, and each of them gets the whole result.

    Args:
        dataset: see `evaluate`.
        arms: see `evaluate`.
        num_classes: with the background.
        device: of the networks.
        autocast: context in which the networks run.
        probes: names of PROBES, or "all".

    Returns:
        num_cases (with a lesion), num_centered (those whose lesion may be moved), without_lesion (left out) and rows, a
        probe each: probe, meaning, num_cases and arms. By arm dice, failures (Dice below 0.5) and misses (Dice below
        0.05), each with the change per case (mean, low and high, over patients), and before and after: of Dice the mean
        over cases and seeds, else their number.

    Raises:
        ValueError: no arm, an unknown probe, no case with a lesion, or a case or network that does not fit.
    """
    names = chosen_probes("probes", probes)
    if not arms or not names:
        raise ValueError("there is nothing to probe: expected a network and a probe at least.")
    for arm in arms:
        arm.network.to(device).eval()
    share = range(idist.get_rank(), len(dataset), idist.get_world_size())
    probed = []
    for index in track(share, "Probing", len(share), show=idist.get_rank() == 0):
        case = read_case(dataset, index)
        probed.append((index, _probe_case(case, arms, names, num_classes, device, autocast)))
    if idist.get_world_size() > 1:
        probed = [pair for pairs in idist.all_gather(probed) for pair in pairs]
    cases = [one for _, one in sorted(probed, key=lambda pair: pair[0]) if one is not None]
    if not cases:
        raise ValueError("no case of the list has a lesion, so that no probe can be measured; choose another list.")
    return {
        "num_cases": len(cases),
        "num_centered": sum(one.centered for one in cases),
        "without_lesion": len(probed) - len(cases),
        "rows": [_summarize(cases, name) for name in names],
    }


def _probe_case(
    case: Mapping[str, Any],
    arms: Sequence[Arm],
    names: Sequence[str],
    num_classes: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None,
) -> Probed | None:
    """The Dice of every arm, probe by probe; None of a case without a lesion."""
    image, label = case["image"], case["label"]
    offset = offset_from_middle(label)
    if offset is None:
        return None
    centered = offset <= CENTERED
    seed = crc32(Path(case["case"]).name.encode())  # the same noise on every machine and in every selection
    pairs = {UNCHANGED: (image, label)}
    pairs |= {name: apply_probe(name, image, label, seed) for name in names if centered or not PROBES[name].moves}
    dice: dict[tuple[str, int], dict[str, float]] = {(arm.name, arm.seed): {} for arm in arms}
    for name, (changed, changed_label) in pairs.items():
        counted = without_ignored(changed_label, changed_label)
        if not (counted > 0).any():
            continue
        for arm in arms:
            logits = segment_case(arm, {**case, "image": changed}, num_classes, device, autocast)
            prediction = without_ignored(logits_to_classes(logits[None])[0], changed_label)
            dice[arm.name, arm.seed][name] = case_dice(prediction, counted, num_classes)
    return Probed(patient_key(case), centered, dice)


def _summarize(cases: Sequence[Probed], name: str) -> dict[str, Any]:
    """The row of a probe."""
    keys = list(cases[0].dice)
    measured = [one for one in cases if name in one.dice[keys[0]]]
    arms: dict[str, list[tuple[str, int]]] = {}
    for key in keys:
        arms.setdefault(key[0], []).append(key)
    effects = {arm: _effects(measured, seeds, name) for arm, seeds in arms.items()} if measured else {}
    return {"probe": name, "meaning": PROBES[name].meaning, "num_cases": len(measured), "arms": effects}


def _effects(cases: Sequence[Probed], seeds: Sequence[tuple[str, int]], name: str) -> dict[str, dict[str, float]]:
    """Changes of SCORES of one arm by a probe."""
    before, after = (np.array([[one.dice[key][at] for one in cases] for key in seeds]) for at in (UNCHANGED, name))
    effects = {}
    for score, compute in SCORES.items():
        values = [compute(before), compute(after)]  # (S, N) each
        change = cluster_bootstrap((values[1] - values[0]).mean(axis=0), [one.cluster for one in cases])
        total = np.mean if score == "dice" else np.sum
        effects[score] = {**change._asdict(), "before": float(total(values[0])), "after": float(total(values[1]))}
    return effects


def worst_probe(probes: Mapping[str, Any], arm: str) -> dict[str, Any] | None:
    """The row of the probe that costs an arm most Dice; None where none was measured.

    Args:
        probes: of `measure_probes`.
        arm: its name.
    """
    rows = [row for row in probes["rows"] if arm in row["arms"]]
    return min(rows, key=lambda row: row["arms"][arm]["dice"]["mean"], default=None)
