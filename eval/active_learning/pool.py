"""The images of a simulation: which are labeled in a round, and which are left. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.data.datalist_file import read_datalist
from scripts.data.joined import Source, read_source
from scripts.labeling.order import offering_order
from scripts.utils.digests import json_digest
from scripts.utils.files import atomic_path

from ..organs.lists import DATALIST, REMEDY, OrganSet, write_lists


@dataclass(frozen=True)
class Pool:
    """The training images of a data set, all of them unlabeled at first.

    Args:
        source: the data set, its training list cut to the pool.
        content: of its datalist.
        one_a_patient: whether a batch holds a second image of a patient only when there is no other patient left.
    """

    source: OrganSet
    content: Mapping[str, Any]
    one_a_patient: bool = True

    @property
    def images(self) -> list[str]:
        """Paths, in the order of the list."""
        return [item["image"] for item in self.content["training"]]

    def patients(self, images: Sequence[str]) -> set[Any]:
        """The patients of some images; one without a patient counts as a patient of its own."""
        wanted = {*images}
        items = [item for item in self.content["training"] if item["image"] in wanted]
        return {item.get("patient", item["image"]) for item in items}

    def next_batch(self, sure: Mapping[str, float], size: int) -> list[str]:
        """So many images, the least sure first.

        Args:
            sure: of the images that are left.
            size: of the batch.
        """
        known = {item["image"]: item["patient"] for item in self.content["training"] if "patient" in item}
        return offering_order(sure, known if self.one_a_patient else {})[:size]

    def random_sureness(self, seed: int) -> dict[str, float]:
        """A random number for each image: their order is random, and the same in each round of a seed."""
        numbers = np.random.default_rng(seed).random(len(self.images))
        return dict(zip(self.images, numbers.tolist()))

    def write_list(self, images: Sequence[str], path: Path, origin: Any) -> list[str]:
        """A datalist whose training images are these; a list that is there already stays. The images it holds.

        Args:
            images: paths.
            path: of the datalist.
            origin: what the images follow from.

        Raises:
            ValueError: the list that is there follows from something else.
        """
        digest = json_digest([self.content["origin"], self.one_a_patient, origin])
        if not path.is_file():
            wanted = {*images}
            chosen = [item for item in self.content["training"] if item["image"] in wanted]
            with atomic_path(path) as partial:
                text = json.dumps({**self.content, "origin": digest, "training": chosen, "test": []}, indent=1)
                partial.write_text(text, encoding="utf-8")
        written = read_datalist(path)
        if written.get("origin") != digest:
            raise ValueError(f"{path} follows from other images or options; {REMEDY}.")
        return [item["image"] for item in written["training"]]


def read_set(dataset_dir: Path) -> Source:
    """The data set of a folder.

    Raises:
        FileNotFoundError: a folder without its datalist.
        ValueError: it has no training or validation images.
    """
    path = dataset_dir / DATALIST
    if not path.is_file():
        raise FileNotFoundError(
            f"--dataset_dir {dataset_dir} holds no {DATALIST}; build it with python -m scripts.make_datalist."
        )
    source = read_source(path)
    lacks = [split for split in ("training", "validation") if not source.lists[split]]
    if lacks:
        raise ValueError(f"{path} has no {lacks[0]} images, which the simulation needs; split it anew.")
    return source


def make_pool(source: Source, num_images: int, output_dir: Path, one_a_patient: bool) -> Pool:
    """The pool of a data set, see `write_lists`: images that look like held-out ones are left out.

    Raises:
        ValueError: the list there was made of another one, or with another number.
    """
    organs = write_lists(source, num_images, output_dir)
    return Pool(organs, read_datalist(organs.datalist), one_a_patient)
