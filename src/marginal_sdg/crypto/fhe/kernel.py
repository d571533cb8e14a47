"""Sums of products of residues, compiled by Numba; imported on use.

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
def _add_products(
    blocks: Any, count: Any, pairs: Any, sums: Any, modulus: Any, word: Any, quotient: Any, one: Any
) -> None:
    for tile in range(blocks.shape[0]):
        for number in range(len(pairs)):
            left, right = blocks[tile, pairs[number, 0]], blocks[tile, pairs[number, 1]]
            for place in range(blocks.shape[2]):
                high0 = high1 = high2 = low0 = low1 = low2 = uint64(0)
                for block in range(count):
                    a0, a1 = left[place, block, 0], left[place, block, 1]
                    b0, b1 = right[place, block, 0], right[place, block, 1]
                    high0, low0 = _add_product(high0, low0, a0, b0)
                    high1, low1 = _add_product(high1, low1, a0, b1)
                    high1, low1 = _add_product(high1, low1, a1, b0)
                    high2, low2 = _add_product(high2, low2, a1, b1)
                for polynomial, high, low in ((0, high0, low0), (1, high1, low1), (2, high2, low2)):
                    total = sums[tile, number, polynomial, place] + _times(high, word, quotient, modulus)
                    total = _times(total + _times(low, uint64(1), one, modulus), uint64(1), one, modulus)
                    sums[tile, number, polynomial, place] = total if total < modulus else total - modulus


def add_products(blocks: Words, count: int, pairs: Words, sums: Words, modulus: int) -> None:
    """Add the products of pairs of ciphertexts, of the first ``count`` of up to 64 row blocks, in one tower.

    ``blocks``: (tiles, ciphertexts, coefficients of a tile, blocks, 2) residues, N = tiles x coefficients of a tile;
    ``pairs``: (p, 2) numbers of ciphertexts; ``sums``: (tiles, p, 3, coefficients of a tile) residues, changed in
    place. All residues are below the modulus, and that is below 2^61.
    """
    word = (1 << 64) % modulus
    quotient, one = (word << 64) // modulus, (1 << 64) // modulus
    constants = [np.uint64(value) for value in (modulus, word, quotient, one)]
    _add_products(blocks, np.uint64(count), pairs, sums, *constants)
