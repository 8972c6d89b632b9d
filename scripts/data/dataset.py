"""Cases kept in memory and seen through reproducible random views.

A view of a case is fixed by (seed, index, view) alone, so that it is bit-identical whatever the number of workers, the
order or a resume. Its `view_key` names what it depends on, so that what a teacher says of it can be kept and found
again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, list_data_collate
from monai.transforms import Compose
from monai.utils import CommonKeys
from torch.utils.data import Dataset, Sampler

from ..utils.digests import content_digest, json_digest
from ..utils.options import NO_LABEL
from ..utils.screen import tell, track
from .balance import balanced_order, column_groups, describe_balance
from .lost_lesions import check_lesions_kept
from .prepared import PreparedItems
from .readers import reading_rule
from .unlabeled import count_unlabeled, endless_passes
from .views import VIEW_KEYS

REPEAT = 1_000_003  # between the numbers of the views of an image that comes several times in an epoch
BASE = -1  # the number of the view before augmentation
_KEYS = (CommonKeys.IMAGE, CommonKeys.LABEL)
Beside = Callable[[Mapping[str, Any], torch.Tensor], Mapping[str, Any]]  # views of a batch, its images


def _seed_from(*numbers: int) -> int:
    """One 32-bit seed that mixes all numbers (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class ViewDataset(Dataset):
    """Items {"image", "label", "case", "view"} of a datalist.

    "case" is the path of the image file. "view" tells which view it is: its "index", its "number", and, where the
    augmentation gives them, "theta", "mirror" and "sector", see data/views.py.

    ``dataset[index]`` is the view of epoch 0, ``dataset[index, epoch]`` that of another epoch, and ``dataset[index,
    BASE]`` the image as it is before augmentation.

    `beside`, where it is set, gives what is kept of the views of a batch: `ViewLoader` calls it where the batch is
    made, and puts that into the batch's "view".

    Args:
        data: dicts with the paths "image" and, optionally, "label"; other keys (patient, device) stay out of the items.
        transform: deterministic; run once for each item.
        augmentation: random; run at each fetch on a copy.
        seed: of the random views.
        views: number of different views of an item (epoch modulo views); None makes every epoch a new view.
        cache: keep the results of `transform`, see `PreparedItems`.
        settings: texts that say what `transform` ("preprocessing") and `augmentation` ("augmentation") do, part of
            every `view_key`.
        unlabeled: dicts with the path "image", of which the items come after the others; their label is NO_LABEL all
            over.

    Raises:
        ValueError: when there are no items, `views` is not positive, or a file cannot be used.
    """

    def __init__(
        self,
        data: Sequence[dict],
        transform: Callable,
        augmentation: Compose | None = None,
        seed: int = 0,
        views: int | None = None,
        cache: bool = True,
        settings: Mapping[str, str] | None = None,
        unlabeled: Sequence[dict] = (),
    ) -> None:
        if not data and not unlabeled:
            raise ValueError("data is empty, expected at least one item; check the lists in data::datalist.")
        if views is not None and views < 1:
            raise ValueError(f"views must be None or at least 1, got {views}.")
        if views is not None and augmentation is None:
            views = 1  # they would all be the same
        self.data = [*data, *unlabeled]
        self.num_labeled = len(data)
        self.transform = transform
        self.augmentation = augmentation
        self.seed = seed
        self.views = views
        self.cache = cache
        self.settings = settings
        self.beside: Beside | None = None
        self._items = PreparedItems(len(self.data))
        self._digests: list[str | None] = [None] * len(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        index, epoch = index if isinstance(index, (tuple, list)) else (index, 0)
        case = str(self.data[index][CommonKeys.IMAGE])  # the IndexError that ends a for loop
        index %= len(self)
        item = self._prepared(index)
        number = epoch if self.views is None or epoch == BASE else epoch % self.views
        view = {"index": index, "number": number}
        if self.augmentation is not None and number != BASE:
            self.augmentation.set_random_state(seed=_seed_from(self.seed, index, number))
            item = self.augmentation(item)
            view.update({key: item.pop(key) for key in VIEW_KEYS if key in item})
        if index >= self.num_labeled:  # after the augmentation, outside of whose image a label is background
            item[CommonKeys.LABEL] = torch.full_like(item[CommonKeys.IMAGE][:1], NO_LABEL)
        return {**item, "case": case, "view": view}

    def view_key(self, index: int, number: int) -> str:
        """A name, in hex, for what the image of a view depends on: its file, the preprocessing, the augmentation and
        the seed.

        Args:
            index: of the case.
            number: of the view; BASE, and every view without augmentation, depends on file and preprocessing alone.

        Raises:
            ValueError: the data set was built without `settings`.
        """
        if self.settings is None:
            raise ValueError("the views of a data set without settings have no names; pass settings to ViewDataset.")
        parts = [self._file_digest(index), self.settings["preprocessing"]]
        if self.augmentation is not None and number != BASE:
            parts += [self.settings["augmentation"], _seed_from(self.seed, index, number)]
        return json_digest(parts)

    def _file_digest(self, index: int) -> str:
        if self._digests[index] is None:
            path = Path(self.data[index][CommonKeys.IMAGE])
            self._digests[index] = content_digest(path.read_bytes()) + reading_rule(path)
        return self._digests[index]

    def check_views(self) -> None:
        """Refuse an augmentation that pushes most lesions out of the image, see `lost_lesions.py`."""
        check_lesions_kept(self)

    def fill(self) -> None:
        """Runs `transform` on every item that is not in memory yet, in threads, with a progress bar on a terminal."""
        missing = self._items.missing() if self.cache else []
        if not missing:
            return
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                for _ in track(pool.map(self._prepare, missing), "reading images", len(missing)):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _prepared(self, index: int) -> dict:
        """The item before augmentation, for the caller alone."""
        if not self.cache:
            return {key: value.clone() for key, value in self._transformed(self.data[index]).items()}
        item = self._items.get(index)
        if item is None:
            self._prepare(index)
            item = self._items.get(index)
        return item

    def _prepare(self, index: int) -> None:
        self._items.put(index, self._transformed(self.data[index]))

    def _transformed(self, entry: dict) -> dict:
        files = {key: entry[key] for key in _KEYS if entry.get(key) is not None}
        try:
            result = self.transform(files)
        except RuntimeError as error:  # Compose hides the reader's message behind "applying transform ..."
            cause = error.__cause__
            while isinstance(cause, RuntimeError):
                cause = cause.__cause__
            raise cause or error from None
        return {key: torch.as_tensor(result[key]) for key in _KEYS if key in result}


class ViewSampler(Sampler):
    """(index, epoch) pairs of every item, in an order fixed by (seed, epoch): independent of workers and resume.

    With `unlabeled_share` an epoch is every labeled item once, and to each batch come as many unlabeled ones, in
    passes that go on from epoch to epoch; the number of its pass stands in the place of an unlabeled item's epoch.

    Of several ranks each takes its own share of the same order, every `num_ranks`-th item, so that their batches
    together are the batches that one process would see.

    Args:
        dataset: anything with a length.
        shuffle: random order; False keeps the order of the list.
        seed: of the order.
        rank: of this process.
        num_ranks: that share the items.
        even: shares of equal length, the first items twice where they have to be, as a training needs it; else every
            item is in one share (an empty share would end a run, and gets the first item).
        batch_size: of the loader, which takes the pairs as they come.
        unlabeled_share: of each batch; 0, or 1 where no item has a label, goes through all items alike.
        balance: column of the labeled items whose rare values are to come more often, see `balance.py`; then an item
            may come several times in an epoch, each time in another view, or not at all. None is off.
        balance_power: from 0, all values alike, to 1, as the list is.

    Raises:
        ValueError: see `count_unlabeled`; a column that items lack, or a power outside of its range.
    """

    def __init__(
        self,
        dataset: Dataset,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        even: bool = True,
        batch_size: int = 1,
        unlabeled_share: float = 0.0,
        balance: str | None = None,
        balance_power: float = 0.5,
    ) -> None:
        if isinstance(balance_power, bool) or not 0 <= balance_power <= 1:
            raise ValueError(f"training::balance_power must be a number from 0 to 1, got {balance_power!r}.")
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.even = even
        self.epoch = 0
        self.unlabeled = count_unlabeled(batch_size, unlabeled_share) if unlabeled_share < 1 else 0
        self.labeled = batch_size - self.unlabeled  # of each batch
        self.count = dataset.num_labeled if self.unlabeled else len(dataset)
        self.groups = column_groups(dataset.data[: self.count], balance) if balance else None
        self.balance_power = balance_power
        if balance and rank == 0:
            tell(describe_balance(dataset.data[: self.count], balance, balance_power))

    def __len__(self) -> int:
        return len(self._share()) + (self._num_batches() * self.unlabeled if self.unlabeled else 0)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the views of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self._order()
        pairs = [order[place % len(order)] for place in self._share()]
        return iter(self._mixed(pairs) if self.unlabeled else pairs)

    def _order(self) -> list[tuple[int, int]]:
        """(index, number of the view) of all items of the epoch but those that are mixed in; a repeated item has
        another view each time.
        """
        order = torch.arange(self.count)
        if self.shuffle:
            generator = torch.Generator().manual_seed(_seed_from(self.seed, self.epoch))
            if self.groups is None:
                order = torch.randperm(self.count, generator=generator)
            else:
                order = balanced_order(self.groups, self.balance_power, generator)
        seen: Counter[int] = Counter()
        pairs = []
        for index in order.tolist():
            pairs.append((index, self.epoch + REPEAT * seen[index]))
            seen[index] += 1
        return pairs

    def _share(self) -> range:
        """This rank's places in the order; from the end on it begins anew."""
        end = self.count + -self.count % self.num_ranks if self.even else self.count
        return range(self.rank, end, self.num_ranks) or range(1)

    def _num_batches(self) -> int:
        """Of an epoch of this rank."""
        return -(-len(self._share()) // self.labeled)

    def _mixed(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The labeled pairs of an epoch, batch by batch followed by the unlabeled ones."""
        taken = self._num_batches() * self.unlabeled * self.num_ranks  # of all ranks, in an epoch
        passes = endless_passes(
            len(self.dataset) - self.count, self.seed, self.epoch * taken + self.rank, self.num_ranks
        )
        others = ((self.count + index, number) for index, number in passes)
        starts = range(0, len(pairs), self.labeled)
        return [
            pair for start in starts for pair in (*pairs[start : start + self.labeled], *islice(others, self.unlabeled))
        ]


class ViewLoader(DataLoader):
    """MONAI DataLoader that fills the dataset's memory first, so that worker processes inherit it instead of each
    reading every file again, and reads what is kept `beside` the views of a batch.

    Args:
        dataset: see `ViewDataset`.
        batch_size: positive.
        kwargs: as MONAI's DataLoader, but for collate_fn.
    """

    def __init__(self, dataset: Dataset, batch_size: int = 1, **kwargs) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"training::batch_size must be a positive integer, got {batch_size!r}.")
        super().__init__(dataset, batch_size=batch_size, collate_fn=partial(_collate, dataset), **kwargs)

    def __iter__(self) -> Iterator:
        if isinstance(self.dataset, ViewDataset):
            self.dataset.fill()
        return super().__iter__()


def _collate(dataset: Dataset, items: Sequence[dict]) -> dict:
    """A batch of items."""
    batch = list_data_collate(items)
    beside = getattr(dataset, "beside", None)
    if beside is not None:
        batch["view"].update(beside(batch["view"], batch[CommonKeys.IMAGE]))
    return batch
