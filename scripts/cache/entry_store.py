"""Tensors kept on disk under a key, as rows of few files: whole or not there, and checked when read.

Any number of processes may read and write one folder, each writes shards of its own: the same key always means the same
content. Entries that earlier versions kept as a file each are read too, and copied into shards by `adopt`.

Shapes: B entries of a batch.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..utils.files import FULL
from ..utils.screen import plural
from .entry_files import entry_file, listed_keys, read_entry_file
from .layout import Layout
from .shards import INDEX, Record, Shard, ShardError, ShardWriter, read_owner, row_digest

logger = logging.getLogger(__name__)

MOST_BYTES = 2**24  # read at once where many rows are checked
Entry = dict[str, torch.Tensor]
Group = tuple[list[int], Entry, list[bool]]  # numbers of keys, their parts (B, ...), which of them are whole


class Place(NamedTuple):
    """Where an entry lies."""

    shard: Shard
    record: Record

    @property
    def rank(self) -> tuple[int, int]:
        """Of several places of a key the highest counts; of two processes that wrote at once, who kept more."""
        return self.record.generation, len(self.shard.layout.parts)


class EntryStore:
    """Entries of named tensors in a folder.

    Args:
        folder: made when the first entry is written.
        owner: what the entries of the folder depend on beside their keys, as a text such as a hash.
    """

    def __init__(self, folder: str | Path, owner: str) -> None:
        self.folder, self.owner = Path(folder), owner
        self._shards: dict[str, Shard | None] = {}  # by the name of the index; None is not usable
        self._places: dict[bytes, Place] = {}
        self._writers: dict[Layout, ShardWriter] = {}
        self._has_files = False
        self.refresh()

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_writers": {}}  # a loader's worker reads

    def refresh(self) -> None:
        """Look for what other processes have written."""
        try:
            names = [entry.name for entry in os.scandir(self.folder)]
        except OSError:
            names = []
        self._has_files = any(len(name) == 2 for name in names)
        for name in sorted(name for name in names if name.endswith(INDEX)):
            if name not in self._shards:
                self._open(name)
            if self._shards.get(name):
                self._take_news(self._shards[name])

    def read(self, keys: Sequence[str]) -> list[Entry | None]:
        """The tensors of each key; None where there is no entry, or, with a warning, where it is damaged."""
        return self._split(keys, self._read_groups(keys))

    def read_batch(self, keys: Sequence[str]) -> Entry | None:
        """The parts (B, ...) that all keys have; None where one of them has no whole entry."""
        groups = list(self._read_groups(keys))
        if len(groups) == 1 and len(groups[0][0]) == len(keys):
            return groups[0][1] if all(groups[0][2]) else None
        entries = self._split(keys, groups)
        if any(entry is None for entry in entries):
            return None
        names = set.intersection(*map(set, entries))
        with torch.autocast("cpu", enabled=False):  # it does not stack fp16
            return {name: torch.stack([entry[name] for entry in entries]) for name in names}

    def read_part(self, keys: Sequence[str], name: str) -> list[torch.Tensor | None]:
        """One part of each key, its checksum not looked at; None where there is none."""
        parts: list[torch.Tensor | None] = [None] * len(keys)
        for layout, numbers in self._by_layout(keys).items():
            if name in layout.parts:
                rows, whole = self._read_rows(keys, numbers, layout.places[name])
                found = layout.unpack(rows, layout.places[name][0])[name]
                for i in [i for i, is_whole in enumerate(whole) if is_whole]:
                    parts[numbers[i]] = found[i]
        for i in self._without_row(keys):
            parts[i] = (read_entry_file(self.folder, self.owner, keys[i]) or {}).get(name)
        return parts

    def all_keys(self) -> list[str]:
        """Of all rows that count."""
        return [key.hex() for key in self._places]

    def has(self, key: str) -> bool:
        """Whether there is anything under a key, whole or not."""
        return self._place(key) is not None or (self._has_files and entry_file(self.folder, key).is_file())

    def where(self, key: str) -> str:
        """Where an entry lies, for people."""
        place = self._place(key)
        return f"{place.shard.rows_path}, row {place.record.number}" if place else str(entry_file(self.folder, key))

    def whole_parts(self, keys: Sequence[str]) -> list[frozenset[str]]:
        """The names of the parts of each key, none where it has no whole entry.

        Rows are read and their checksums compared, once, but for those that this process has written: size and times
        of a file whose rows are all whole are kept beside it, and tell from then on. A row is checked again when a
        process reads it for the first time.
        """
        self.refresh()
        for shard in {id(place.shard): place.shard for key in keys if (place := self._place(key))}.values():
            self._check(shard)
        return [self._whole_parts(key) for key in keys]

    def write(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the tensors under a key; an entry that is there is replaced.

        Raises:
            OSError: the disk is full or the folder cannot be written; the message says what can be done.
        """
        layout, binary, present = Layout.of(tensors), bytes.fromhex(key), self._place(key)
        row, generation = layout.pack(tensors), present.record.generation + 1 if present else 0
        try:
            writer = self._writer(layout)
            record = Record(binary, generation, writer.count, row_digest(row, self.owner, binary))
            writer.append(record, row)
        except OSError as error:
            raise OSError(error.errno or errno.EIO, explain(self.folder, error)) from error
        shard = self._shards.get(writer.path.name)
        if shard:
            self._take_news(shard)
            shard.verified.add(record.number)

    def adopt(self, keys: Sequence[str]) -> int:
        """Copy entries that are a file each, if they are whole, into shards; how many.

        Raises:
            OSError: see `write`.
        """
        count = 0
        for key in keys:
            entry = read_entry_file(self.folder, self.owner, key)
            if entry is not None:
                self.write(key, entry)
                count += 1
        return count

    def files_alone(self) -> list[str]:
        """The keys of entries that are a file each and in no shard."""
        return [key for key in listed_keys(self.folder) if self._place(key) is None] if self._has_files else []

    def _split(self, keys: Sequence[str], groups: Iterable[Group]) -> list[Entry | None]:
        """Single entries of what was read of the keys, and of files."""
        entries: list[Entry | None] = [None] * len(keys)
        for numbers, parts, whole in groups:
            for i, number in enumerate(numbers):
                if whole[i]:
                    entries[number] = {name: part[i] for name, part in parts.items()}
        for i in self._without_row(keys):
            entries[i] = read_entry_file(self.folder, self.owner, keys[i])
        return entries

    def _without_row(self, keys: Sequence[str]) -> list[int]:
        """Which of the keys may be a file."""
        return [i for i, key in enumerate(keys) if self._place(key) is None] if self._has_files else []

    def _place(self, key: str) -> Place | None:
        return self._places.get(bytes.fromhex(key))

    def _open(self, name: str) -> None:
        try:
            if (self.folder / name).stat().st_size:  # or it is just being made
                self._shards[name] = Shard(self.folder / name, self.owner)
        except FileNotFoundError:
            return
        except (ShardError, OSError) as error:
            self._shards[name] = None
            logger.warning(
                "cache shard %s cannot be used (%s): its entries count as missing.", self.folder / name, error
            )

    def _take_news(self, shard: Shard) -> None:
        try:
            records, damaged = shard.news()
        except OSError:  # deleted
            return
        if damaged:
            lines = plural(damaged, "line")
            logger.warning("%s of %s cannot be read: what they tell of counts as missing.", lines, shard.path)
        for record in records:
            place, present = Place(shard, record), self._places.get(record.key)
            if present is None or place.rank > present.rank:
                self._places[record.key] = place
                shard.live[record.number] = record
                if present is not None:
                    present.shard.live.pop(present.record.number, None)

    def _writer(self, layout: Layout) -> ShardWriter:
        writer = self._writers.get(layout)
        if writer is None or writer.is_full or not writer.path.is_file():
            writer = self._writers[layout] = ShardWriter(self.folder, self.owner, layout)
            self._open(writer.path.name)
        return writer

    def _by_layout(self, keys: Sequence[str]) -> dict[Layout, list[int]]:
        """Which of the keys have rows of each layout."""
        groups: dict[Layout, list[int]] = {}
        for number, key in enumerate(keys):
            place = self._place(key)
            if place and place.record.number not in place.shard.damaged:
                groups.setdefault(place.shard.layout, []).append(number)
        return groups

    def _read_groups(self, keys: Sequence[str]) -> Iterator[Group]:
        """What the shards have of the keys, layout by layout."""
        for layout, numbers in self._by_layout(keys).items():
            rows, whole = self._read_rows(keys, numbers, (0, layout.row_bytes))
            places = [self._place(keys[number]) for number in numbers]
            for i, place in enumerate(places):
                whole[i] = _verify(place, rows[i], whole[i], self.owner)
            _tell_damaged([place for place, is_whole in zip(places, whole) if not is_whole])
            yield numbers, layout.unpack(rows), whole

    def _read_rows(
        self, keys: Sequence[str], numbers: Sequence[int], span: tuple[int, int]
    ) -> tuple[torch.Tensor, list[bool]]:
        """The bytes `span` of rows of one layout, and which of them were there in full."""
        rows, whole = torch.empty(len(numbers), span[1] - span[0], dtype=torch.uint8), [False] * len(numbers)
        arrays, shards = rows.numpy(), {}
        for i, number in enumerate(numbers):
            shard, record = self._place(keys[number])
            shards.setdefault(id(shard), (shard, [], []))
            shards[id(shard)][1].append(i)
            shards[id(shard)][2].append(record.number)
        for shard, targets, lines in shards.values():
            for i, was_there in zip(targets, shard.read(lines, [arrays[i] for i in targets], span[0])):
                whole[i] = was_there
        return rows, whole

    def _whole_parts(self, key: str) -> frozenset[str]:
        place = self._place(key)
        if place is not None:
            is_whole = place.record.number not in place.shard.damaged
            return place.shard.layout.names if is_whole else frozenset()
        return frozenset(read_entry_file(self.folder, self.owner, key) or ()) if self._has_files else frozenset()

    def _check(self, shard: Shard) -> None:
        """Find the damaged rows of a shard, unless its size and times say that there are none."""
        state = shard.state()
        if shard.is_remembered(state):
            return
        whole_rows = state["bytes"] // shard.layout.row_bytes if state else 0
        cut_off = [number for number in shard.live.keys() - shard.damaged if number >= whole_rows]
        _tell_damaged([Place(shard, shard.live[number]) for number in sorted(cut_off)])
        keys = [record.key.hex() for number, record in shard.live.items() if number not in shard.verified]
        step = max(1, MOST_BYTES // shard.layout.row_bytes)
        for start in range(0, len(keys), step):
            for _ in self._read_groups(keys[start : start + step]):
                pass
        if state and shard.damaged.isdisjoint(shard.live):
            shard.remember(state)


def _verify(place: Place, row: torch.Tensor, was_there: bool, owner: str) -> bool:
    """Whether a row that was read is whole; its checksum is compared once in a process."""
    shard, record = place
    if was_there and record.number not in shard.verified:
        was_there = row_digest(row.numpy(), owner, record.key) == record.digest
        shard.verified.add(record.number)
    return was_there


def _tell_damaged(places: Sequence[Place]) -> None:
    """Warn of rows that are damaged, which are left alone from then on."""
    for shard in {id(place.shard): place.shard for place in places}.values():
        numbers = [record.number for other, record in places if other is shard]
        shard.damaged.update(numbers)
        shard.forget()
        rows = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
        text = "cache shard %s is damaged or cut off (row %s): %d of its entries count as missing."
        logger.warning(text, shard.rows_path, rows, len(numbers))


def read_cache(cache_dir: str | Path) -> dict[str, Entry]:
    """Every whole entry of a cache's shards, by folder and key."""
    entries: dict[str, Entry] = {}
    for folder in sorted({path.parent for path in Path(cache_dir).glob(f"*/*{INDEX}")}):
        store = EntryStore(folder, read_owner(next(folder.glob(f"*{INDEX}"))))
        keys = store.all_keys()
        entries |= {f"{folder.name}/{key}": entry for key, entry in zip(keys, store.read(keys)) if entry is not None}
    return entries


def explain(folder: Path, error: BaseException | str) -> str:
    """What to do about a folder that cannot be written."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
    free = "Free space, or pass" if isinstance(error, str) or error.errno in FULL else "Pass"
    return (
        f"the cache {folder} cannot be written ({reason}); entries written before are kept. {free} "
        "--teacher::cache_dir PATH to a folder with space that can be written, or --distillation::mode online."
    )
