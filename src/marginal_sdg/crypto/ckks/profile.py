"""Parameters: what COMP and the score need in levels, and the smallest ring that gives 128 bits of security for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from marginal_sdg.crypto.fhe.library import openfhe
from marginal_sdg.errors import ProtocolError

Comp = Literal["plain", "lazy", "packed"]
Score = Literal["l2_squared", "l1_poly"]

MARGINAL_LEVEL = 2  # a product of columns, and a mask
_SCORE_LEVELS = {"l2_squared": 1, "l1_poly": 5}
NOISE_BITS = 10  # of errors of scores and marginals under HYBRID switching, some more than OpenFHE estimates
_RINGS = {("BV", 3): 8192, ("BV", 7): 16384, ("HYBRID", 3): 16384, ("HYBRID", 7): 32768}


@dataclass(frozen=True)
class Profile:
    """``ring``: dimension N, of which N/2 slots; ``depth`` levels of ``scale_bits`` above a modulus of ``first_bits``.

    ``switching``: "BV" needs no extra modulus, so that half the ring is enough, and adds noise of some 2^75: it must
    come while values are scaled by 2^(2 scale_bits), before the rescaling. ``hoisted``: rotations share a decomposition
    where the keys of four at once are still small. ``flooded``: every decryption adds Gaussian noise that drowns errors
    of up to ``NOISE_BITS`` bits with 30 bits of statistical security (OpenFHE's NOISE_FLOODING_DECRYPT), and scores
    have a modulus to spare, in which pads hide them.
    """

    comp: str
    score: str
    ring: int
    depth: int
    switching: Literal["BV", "HYBRID"]
    scale_bits: int = 50
    first_bits: int = 60
    flooded: bool = False

    @property
    def slots(self) -> int:
        """Numbers per ciphertext."""
        return self.ring // 2

    @property
    def modulus_bits(self) -> int:
        """Bits of the ciphertext modulus, without what HYBRID key switching adds."""
        return self.first_bits + self.depth * self.scale_bits

    @property
    def room(self) -> int:
        """No value at the last level may reach it: larger ones would wrap around in silence."""
        return 1 << (self.first_bits - self.scale_bits - 1)

    @property
    def largest_count(self) -> int:
        """Counts at level 1, before they are divided by the cap, wrap around from here on."""
        return 1 << (self.modulus_bits - 2 * self.scale_bits - 1)

    @property
    def measured_level(self) -> int:
        """Of marginals sent for decryption: two moduli are left."""
        return self.depth - 1

    @property
    def scored_level(self) -> int:
        """Of scores sent for decryption."""
        return self.depth - self.flooded

    @property
    def hoisted(self) -> bool:
        """Whether rotations come in hoisted threes, which halve the number of decompositions."""
        return self.switching == "BV" and self.depth <= 3

    def context(self, *, estimating: bool = False) -> Any:
        """An OpenFHE context, which OpenFHE itself refuses below 128 bits of classical security.

        ``estimating``: for the phase in which decryptions only tell how large their errors are.
        """
        fhe = openfhe()
        wanted = fhe.CCParamsCKKSRNS()
        wanted.SetSecurityLevel(fhe.HEStd_128_classic)
        wanted.SetRingDim(self.ring)
        wanted.SetMultiplicativeDepth(self.depth)
        wanted.SetKeySwitchTechnique(getattr(fhe, self.switching))
        wanted.SetScalingTechnique(fhe.FIXEDMANUAL)
        wanted.SetScalingModSize(self.scale_bits)
        wanted.SetFirstModSize(self.first_bits)
        if self.flooded:
            wanted.SetNumLargeDigits(self.depth + 1)  # the smallest modulus for key switching
            wanted.SetDecryptionNoiseMode(fhe.NOISE_FLOODING_DECRYPT)
            wanted.SetExecutionMode(fhe.EXEC_NOISE_ESTIMATION if estimating else fhe.EXEC_EVALUATION)
            if not estimating:
                wanted.SetNoiseEstimate(NOISE_BITS)
        try:
            context = fhe.GenCryptoContext(wanted)
        except RuntimeError:
            raise ProtocolError(
                f"profile: ring dimension {self.ring} with a modulus of {self.modulus_bits} bits under "
                f"{self.switching} is refused, or has less than 128 bits of security; take a larger ring"
            ) from None
        for feature in (fhe.PKE, fhe.KEYSWITCH, fhe.LEVELEDSHE, fhe.ADVANCEDSHE):
            context.Enable(feature)
        return context


def choose_profile(comp: str = "packed", score: str = "l2_squared", *, flooded: bool = False) -> Profile:
    """The smallest ring with enough levels for both; flooding needs one more, and the small errors of HYBRID."""
    if comp not in get_args(Comp):
        raise ProtocolError(f"comp: {comp!r} is none of {', '.join(get_args(Comp))}")
    if score not in get_args(Score):
        raise ProtocolError(f"score: {score!r} is neither of {' and '.join(get_args(Score))}")
    depth = MARGINAL_LEVEL + _SCORE_LEVELS[score]
    switching: Literal["BV", "HYBRID"] = "HYBRID" if flooded or comp == "plain" else "BV"
    return Profile(comp, score, _RINGS[switching, depth], depth + flooded, switching, flooded=flooded)
