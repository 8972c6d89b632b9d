"""Balanced sampling: how often the images of each group come in an epoch, and in which order.

A group is the images of one value of a column of the datalist, such as a device or a data set. Of an epoch of as many
draws as there are images, a group of n images gets the share n^q / sum of all groups' n^q (Kang et al. 2020,
arXiv:1910.09217, eq. 1). With a power q of 1 the groups stay as they are, 0.5 is square-root sampling (Mahajan et al.
2018, arXiv:1805.00932), and with 0 all groups get the same number. There the numbers are drawn, here they are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .classes import MAX_LISTED

KEY = "training::balance"


def column_groups(items: Sequence[Mapping[str, Any]], column: str) -> list[list[int]]:
    """Indices of the items of each value of a column, in the order that the values first come in.

    Args:
        items: of a list of the datalist.
        column: a key of the items.

    Raises:
        ValueError: no item has the column, some lack it, or all have one value.
    """
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        value = item.get(column)
        groups.setdefault("" if value is None else str(value), []).append(index)
    missing = groups.pop("", [])
    if not groups:
        columns = sorted({key for item in items for key in item} - {"image", "label"})
        there = f"its columns are {', '.join(columns)}" if columns else "its items have no column"
        raise ValueError(f"{KEY} is {column!r}, which the training list does not have; {there}.")
    if missing:
        raise ValueError(
            f"{KEY} is {column!r}, which {len(missing)} of {len(items)} training images lack "
            f"({items[missing[0]]['image']}); add it to the datalist or name another column."
        )
    if len(groups) == 1:
        raise ValueError(
            f"{KEY} is {column!r}, which is {next(iter(groups))} in every training image; there is nothing to balance: "
            "leave it out or name another column."
        )
    return list(groups.values())


def draws_of_groups(sizes: Sequence[int], power: float) -> list[int]:
    """How often each group is drawn in an epoch of sum(sizes) draws; of the largest remainders the first come first.

    Args:
        sizes: images of each group.
        power: from 0 (all groups alike) to 1 (as the list is).
    """
    weights = [size**power for size in sizes]
    wanted = [sum(sizes) * weight / sum(weights) for weight in weights]
    draws = [int(number) for number in wanted]
    rest = sorted(range(len(sizes)), key=lambda i: draws[i] - wanted[i])[: sum(sizes) - sum(draws)]
    return [number + (i in rest) for i, number in enumerate(draws)]


def balanced_order(groups: Sequence[Sequence[int]], power: float, generator: torch.Generator) -> torch.Tensor:
    """The indices of an epoch, (N,), in random order: within a group no image comes once more before all came once.

    Args:
        groups: indices of each, N together.
        power: see `draws_of_groups`.
        generator: of the order.
    """
    parts = []
    for group, draws in zip(groups, draws_of_groups([len(group) for group in groups], power)):
        rounds = [torch.randperm(len(group), generator=generator) for _ in range(-(-draws // len(group)))]
        parts += [torch.tensor(group)[torch.cat(rounds)[:draws]]] if draws else []
    order = torch.cat(parts)
    return order[torch.randperm(len(order), generator=generator)]


def describe_balance(items: Sequence[Mapping[str, Any]], column: str, power: float) -> str:
    """How often each group comes, such as "GE 84 -> 290"."""
    groups = column_groups(items, column)
    draws = draws_of_groups([len(group) for group in groups], power)
    told = [f"{items[group[0]][column]} {len(group)} -> {count}" for group, count in zip(groups, draws)]
    more = [f"and {len(told) - MAX_LISTED} more"] if len(told) > MAX_LISTED else []
    return f"images of an epoch, balanced by {column}: {', '.join([*told[:MAX_LISTED], *more])}"
