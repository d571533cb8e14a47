"""Work on several threads: OpenFHE releases the interpreter lock in its heavy calls, and forks are not safe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterable[Result]:
    """``map`` in order, on ``threads`` threads; on one, results are made as they are asked for."""
    if threads == 1:
        return map(function, items)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
