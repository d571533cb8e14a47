"""Parameters of the encryption scheme: what is fixed, what follows from the public cap on records, and why.

BGV with coefficient packing, RNS towers, BV key switching. At depth 1-2, BV needs no extra modulus, so that the same
modulus fits a ring half the size; its noise (about t * 2^(tower bits + 8)) is divided away when a key switch
comes before a modulus switch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from marginal_sdg.crypto.fhe.library import openfhe
from marginal_sdg.errors import ProtocolError

PLAINTEXT_BITS = 32  # OpenFHE encodes no larger coefficient
_FEWEST_BITS = 26  # room for noise in small tables, and flooding in five digits
SECURITY_BITS = 128  # of OpenFHE's HEStd_128_classic, without which no context is made
NORM_LEVEL = 1  # towers dropped before ciphertexts are multiplied for a second time


@dataclass(frozen=True)
class Profile:
    """One parameter set.

    ``records``: public cap on the records of all data holders together. ``plaintext``: the prime t; counts and scores
    are integers mod t. ``ring``: dimension N, coefficients per ciphertext. ``towers`` moduli of ``tower_bits`` bits.
    """

    records: int
    plaintext: int
    ring: int
    towers: int
    tower_bits: int

    @property
    def output_level(self) -> int:
        """Towers dropped before anything is decrypted: two are left, room for values and for flooding."""
        return self.towers - 2

    @property
    def modulus_bits(self) -> int:
        """Bits of the ciphertext modulus Q."""
        return self.towers * self.tower_bits

    @property
    def flood_bits(self) -> int:
        """Bits of the uniform noise that hides the noise of an output: an eighth of the modulus that is left."""
        return 2 * self.tower_bits - 4

    @property
    def ciphertext_bytes(self) -> int:
        """A fresh ciphertext: two polynomials of 8-byte residues."""
        return 2 * 8 * self.ring * self.towers

    @property
    def output_bytes(self) -> int:
        """A ciphertext that is sent for decryption, or noise that is added to one."""
        return 2 * 8 * self.ring * 2

    @property
    def evaluation_key_bytes(self) -> int:
        """The relinearisation key and one key per automorphism: of ring packing, and of X -> 1/X."""
        return (1 + len(automorphisms(self.ring))) * self.towers * self.ciphertext_bytes

    def context(self) -> Any:
        """An OpenFHE context: OpenFHE itself refuses it below 128 bits of classical security, as its table has them."""
        fhe = openfhe()
        wanted = fhe.CCParamsBGVRNS()
        wanted.SetSecurityLevel(fhe.HEStd_128_classic)
        wanted.SetRingDim(self.ring)
        wanted.SetMultiplicativeDepth(self.towers - 1)
        wanted.SetPlaintextModulus(self.plaintext)
        wanted.SetKeySwitchTechnique(fhe.BV)
        wanted.SetScalingTechnique(fhe.FIXEDMANUAL)
        wanted.SetFirstModSize(self.tower_bits)
        wanted.SetScalingModSize(self.tower_bits)
        try:
            context = fhe.GenCryptoContext(wanted)
        except RuntimeError:
            raise ProtocolError(
                f"profile: ring dimension {self.ring} with {self.towers} moduli of {self.tower_bits} bits has less "
                "than 128 bits of security; take a larger ring or fewer bits"
            ) from None
        for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE, fhe.ADVANCEDSHE, fhe.MULTIPARTY):
            context.Enable(feature)
        return context


def choose_profile(records: int, *, flood_norms: bool = False) -> Profile:
    """The profile for at most ``records`` records in all: 3 towers of 60 bits in a ring of 8192 (set A).

    t is the largest prime below a power of two that holds every squared distance between two tables of that many
    records, at most 2^32: beyond some 46,000 records a score may not fit, which the server checks against the model.
    ``flood_norms`` gives room to flood the ciphertext of the norms by 40 bits as well (set A+, a third slower).
    """
    if not 1 <= records < 2 ** (PLAINTEXT_BITS - 1):
        raise ProtocolError(f"records: a cap of {records} is not between 1 and {2 ** (PLAINTEXT_BITS - 1) - 1}")
    bits = min(PLAINTEXT_BITS, max(_FEWEST_BITS, math.ceil(math.log2(2 * records**2)) + 1))
    plaintext = _prime_below(2**bits)
    if not flood_norms:
        return Profile(records, plaintext, 8192, 3, 60)
    if bits <= 28:
        return Profile(records, plaintext, 8192, 4, 52)
    return Profile(records, plaintext, 16384, 4, 60)


def automorphisms(ring: int) -> list[int]:
    """Exponents g of the maps X -> X^g that the server needs: 1 + 2N/s for s = 4, 8, ..., N and s = 2, and -1."""
    strides = [2**k for k in range(1, ring.bit_length())]
    return sorted({(1 + 2 * ring // stride) % (2 * ring) for stride in strides} | {2 * ring - 1})


def _prime_below(limit: int) -> int:
    candidate = limit - 1
    while not _is_prime(candidate):
        candidate -= 2
    return candidate


def _is_prime(number: int) -> bool:
    """Miller-Rabin with bases that decide every odd number from 17 below 2^64."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        power = pow(base, odd, number)
        if power not in (1, number - 1) and all(
            (power := power * power % number) != number - 1 for _ in range(twos - 1)
        ):
            return False
    return True
