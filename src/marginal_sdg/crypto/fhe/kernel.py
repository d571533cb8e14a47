"""Arithmetic on residues, compiled by Numba; imported on use.

Products of two words and their sums are kept in full, in 128 bits, and reduced once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types, uint64
from numba.extending import intrinsic

from marginal_sdg.crypto.fhe.residues import Words

_WORD, _WIDE = ir.IntType(64), ir.IntType(128)
_HALF = ir.Constant(_WIDE, 64)


@intrinsic  # type: ignore[untyped-decorator]
def _add_product(typing: Any, high: Any, low: Any, first: Any, second: Any) -> Any:
    """(high, low) of ``2^64 high + low + first second`` mod 2^128."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        top, bottom, left, right = (builder.zext(argument, _WIDE) for argument in arguments)
        total = builder.add(builder.or_(builder.shl(top, _HALF), bottom), builder.mul(left, right))
        halves = [builder.trunc(builder.lshr(total, _HALF), _WORD), builder.trunc(total, _WORD)]
        return context.make_tuple(builder, signature.return_type, halves)

    word = types.uint64
    return types.UniTuple(word, 2)(word, word, word, word), build


@njit(inline="always")  # type: ignore[untyped-decorator]
def _times(value: Any, factor: Any, quotient: Any, modulus: Any) -> Any:
    """``value factor`` mod modulus, below twice the modulus; ``quotient``: floor(2^64 factor / modulus).

    Source: Harvey 2014, "Faster arithmetic for number-theoretic transforms", Algorithm 2 (Shoup's trick).
    """
    return value * factor - _add_product(uint64(0), uint64(0), value, quotient)[0] * modulus


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _add_products(blocks: Any, pairs: Any, sums: Any, modulus: Any, word: Any, quotient: Any, one: Any) -> None:
    width = sums.shape[3]
    near = np.empty((blocks.shape[1], width, len(blocks), 2), dtype=np.uint64)  # a tile of all, in the core's cache
    for tile in range(len(sums)):
        for block in range(len(blocks)):
            for number in range(len(near)):
                for polynomial in range(2):
                    for place in range(width):
                        residue = blocks[block, number, polynomial, tile * width + place]
                        near[number, place, block, polynomial] = residue
        for number in range(len(pairs)):
            left, right = near[pairs[number, 0]], near[pairs[number, 1]]
            for place in range(width):
                high0 = high1 = high2 = uint64(0)
                total = sums[tile, number]
                low0, low1, low2 = total[0, place], total[1, place], total[2, place]
                for block in range(len(blocks)):
                    a0, a1 = left[place, block, 0], left[place, block, 1]
                    b0, b1 = right[place, block, 0], right[place, block, 1]
                    high0, low0 = _add_product(high0, low0, a0, b0)
                    high1, low1 = _add_product(high1, low1, a0, b1)
                    high1, low1 = _add_product(high1, low1, a1, b0)
                    high2, low2 = _add_product(high2, low2, a1, b1)
                for polynomial, high, low in ((0, high0, low0), (1, high1, low1), (2, high2, low2)):
                    rest = _times(high, word, quotient, modulus) + _times(low, uint64(1), one, modulus)
                    rest = min(rest, rest - (modulus + modulus))  # unsigned: a difference below 0 is huge
                    total[polynomial, place] = min(rest, rest - modulus)


def add_products(blocks: Words, pairs: Words, sums: Words, modulus: int) -> None:
    """Add the products of pairs of ciphertexts, of up to 16 row blocks, in one tower.

    ``blocks``: (blocks, ciphertexts, 2, N) residues; ``pairs``: (p, 2) numbers of ciphertexts; ``sums``: (tiles, p, 3,
    N / tiles) residues, changed in place. All residues are below the modulus, and that is below 2^61.
    """
    word = (1 << 64) % modulus
    quotient, one = (word << 64) // modulus, (1 << 64) // modulus
    _add_products(blocks, pairs, sums, *(np.uint64(value) for value in (modulus, word, quotient, one)))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def add_transform(values: Any, roots: Any, quotients: Any, modulus: Any, sums: Any) -> None:
    """Add the number-theoretic transform of a polynomial to (N,) residues, in place.

    ``values``: (N,) int64 coefficients within the modulus of 0, which is below 2^61. ``roots``: (N,) powers psi^r of a
    root of X^N + 1, r the bits of the place reversed; ``quotients``: floor(2^64 psi^r / modulus). The result is in the
    same order: the place with reversed bits r has the value at psi^(2 r + 1).

    Source: Harvey 2014, Algorithm 2; Longa and Naehrig 2016, "Speeding up the Number Theoretic Transform", Algorithm 1.
    """
    twice = modulus + modulus
    work = np.empty(len(values), dtype=np.uint64)  # below four times the modulus
    for place in range(len(values)):
        value = values[place]
        work[place] = uint64(value) if value >= 0 else modulus - uint64(-value)
    blocks, half = 1, len(values) // 2
    while half:
        for block in range(blocks):
            root, quotient = roots[blocks + block], quotients[blocks + block]
            for place in range(2 * block * half, (2 * block + 1) * half):
                low = work[place]
                low = min(low, low - twice)  # unsigned: a difference below 0 is huge
                high = _times(work[place + half], root, quotient, modulus)
                work[place], work[place + half] = low + high, low + twice - high
        blocks, half = 2 * blocks, half // 2
    for place in range(len(values)):
        value = min(work[place], work[place] - twice)
        value = min(value, value - modulus) + sums[place]
        sums[place] = min(value, value - modulus)
