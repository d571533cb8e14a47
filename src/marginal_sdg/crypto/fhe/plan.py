"""What a run will cost, before any key is made: numbers of ciphertexts, bytes and CPU seconds on one core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from marginal_sdg.crypto.fhe.layout import WIDTHS, Clique, Layout
from marginal_sdg.crypto.fhe.profile import Profile

# Milliseconds of CPU for a ring of 8192, measured on one core of an AMD EPYC with AVX-512, OpenFHE 1.6.
_ENCRYPT = 1.15  # per tower, with encoding and serialising
_LOAD = 0.1  # per tower, deserialising
_PRODUCT = 0.08  # per tower, with the addition
_SWITCH = 0.12  # per tower squared: a key switch
_WEIGH = 0.9  # one product with public weights
_OUTPUT = 9.0  # one re-randomised and flooded output
_DECRYPT = 0.4
_MEMORY = 3 * 2**29  # bytes that the server may spend on running sums


@dataclass(frozen=True)
class Plan:
    """Counts, bytes and estimated CPU seconds of one run."""

    ring: int
    modulus_bits: int
    plaintext: int
    width: int
    evaluation_key_bytes: int
    ciphertext_bytes: int
    upload_ciphertexts: int
    upload_bytes: int
    server_bytes: int  # running sums of products; the largest part of the server's memory
    products: int
    key_switches: int
    marginal_ciphertexts: int
    score_outputs: int
    share_outputs: int
    crossed_ciphertexts: int  # of the key holder's halves, encrypted again for the products with the server's
    measured_outputs: int  # of the largest candidate
    holder_seconds: float
    compute_seconds: float
    norm_seconds: float  # of scores under encryption
    share_seconds: float  # of marginals and norms as shares instead
    select_seconds: float  # per round, of scores under encryption
    measure_seconds: float  # per measurement

    @classmethod
    def of(cls, layout: Layout, *, counts: bool = False) -> Plan:
        """The plan for uploads of records up to the profile's cap, or of ``counts``."""
        profile = layout.profile
        scale = profile.ring / 8192 / 1000
        towers = profile.towers
        parts, sparse = layout.parts, layout.sparse
        loads = [sum(len(parts[member].sources) for member in members) for members in layout.carriers]
        pairs = sum(len(part.sources) for part in parts if len(part.sources[0]) == 2)
        packed = sum(len(part.sources) for part in parts)
        blocks = layout.blocks(profile.records)
        switches = 0 if counts else packed + sum(_pack_switches(load, layout.rows) for load in loads)
        columns = layout.polynomials(range(len(layout.shape)))
        uploads = len(loads) if counts else blocks * len(columns)
        products = 0 if counts else blocks * pairs
        outputs = len(sparse.scoring)
        sources = sum(len(group.sources) for group in sparse.scoring)
        shared = len(loads) if layout.dense else sources
        measured = max(len(numbers) for numbers in layout.parts_of)
        load = uploads * towers * _LOAD
        return cls(
            ring=profile.ring,
            modulus_bits=profile.modulus_bits,
            plaintext=profile.plaintext,
            width=layout.width,
            evaluation_key_bytes=profile.evaluation_key_bytes,
            ciphertext_bytes=profile.ciphertext_bytes,
            upload_ciphertexts=uploads,
            upload_bytes=uploads * profile.ciphertext_bytes,
            server_bytes=0 if counts else packed * profile.ciphertext_bytes * 3 // 2,
            products=products,
            key_switches=switches,
            marginal_ciphertexts=len(loads),
            score_outputs=outputs,
            share_outputs=shared,
            crossed_ciphertexts=sources,
            measured_outputs=measured,
            holder_seconds=scale * uploads * towers * _ENCRYPT,
            compute_seconds=scale * (load + products * towers * _PRODUCT + switches * towers**2 * _SWITCH),
            norm_seconds=scale * len(parts) * _SWITCH * (towers**2 + 2 * (towers - 1) ** 2 + 10),
            share_seconds=scale * (sources * (_ENCRYPT * 2 + _WEIGH) + (shared + outputs) * (_OUTPUT + _DECRYPT)),
            select_seconds=scale * (sources * _WEIGH + outputs * (_OUTPUT + _DECRYPT)),
            measure_seconds=scale * measured * (_OUTPUT + _DECRYPT + _ENCRYPT * 2),
        )

    @property
    def upload_seconds(self) -> float:
        """What the width of the layout decides: the holder's work and the server's, once."""
        return self.holder_seconds + self.compute_seconds

    def decryptions(self, rounds: int, measurements: int, *, shared: bool = False) -> int:
        """Ciphertexts that the key holder is asked to decrypt at most; ``shared``: scores come from shares."""
        selection = self.share_outputs + self.score_outputs if shared else 1 + rounds * self.score_outputs
        return selection + measurements * self.measured_outputs

    def summary(self) -> str:
        """The plan in a few lines."""
        return (
            f"BGV, ring {self.ring}, modulus {self.modulus_bits} bits, counts mod {self.plaintext}, 128-bit security\n"
            f"keys {_mega(self.evaluation_key_bytes)}, upload {self.upload_ciphertexts} ciphertexts of "
            f"{_mega(self.ciphertext_bytes)}, together {_mega(self.upload_bytes)}; server {_mega(self.server_bytes)}\n"
            f"{self.products} products, {self.key_switches} key switches, "
            f"{self.marginal_ciphertexts} encrypted marginals\n"
            f"CPU: holder {self.holder_seconds:.1f} s, marginals {self.compute_seconds:.1f} s; norms "
            f"{self.norm_seconds:.1f} s and every selection {1000 * self.select_seconds:.0f} ms, or all shares "
            f"{self.share_seconds:.1f} s; every measurement {1000 * self.measure_seconds:.0f} ms"
        )

    def items(self) -> dict[str, float]:
        """The plan by name."""
        return asdict(self)


def choose_layout(
    profile: Profile, shape: Sequence[int], cliques: Sequence[Clique], *, dense: bool = False, counts: bool = False
) -> Layout:
    """The layout whose width makes the planned work of holder and server least (``counts``: these are uploaded).

    Widths that would take more than 1.5 GB of the server's memory come last.
    """

    def cost(layout: Layout) -> tuple[int, float]:
        plan = Plan.of(layout, counts=counts)
        return max(0, plan.server_bytes - _MEMORY), plan.upload_seconds

    layouts = [Layout(profile, tuple(shape), tuple(cliques), width, dense) for width in WIDTHS]
    return min(layouts, key=cost)


def _pack_switches(count: int, rows: int) -> int:
    """Automorphisms of packing ``count`` ciphertexts at stride ``rows``; an empty place costs none."""
    switches = 0
    for _ in range(int(math.log2(rows))):
        count = -(-count // 2)
        switches += count
    return switches


def _mega(size: int) -> str:
    return f"{size / 2**20:.1f} MB"
