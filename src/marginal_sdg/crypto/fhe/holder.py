"""The data holder: encrypts its records, or its counts, and the noise of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from marginal_sdg.crypto.fhe.encryption import choose_encrypt
from marginal_sdg.crypto.fhe.layout import Ints, Layout, Polynomial
from marginal_sdg.crypto.fhe.public import Public
from marginal_sdg.crypto.fhe.threads import each
from marginal_sdg.crypto.fhe.upload import Opening, check_attributes, check_cap
from marginal_sdg.crypto.fhe.wire import Frame, Kind
from marginal_sdg.errors import ProtocolError


class DataHolder:
    """``public_key``: the key holder's announcement. ``records``: public cap on this holder's records.

    Uploads have the size that the cap gives, however many records there are.
    """

    def __init__(self, layout: Layout, public_key: bytes, records: int, threads: int = 1) -> None:
        check_cap(records, layout)
        self._layout = layout
        self._public = Public.load(layout, public_key)
        self._records = records
        self._threads = threads
        self._noises = 0

    def upload_records(self, codes: Ints, attributes: Sequence[int] | None = None) -> Iterator[bytes]:
        """Frames of the encrypted table, made as they are asked for.

        ``codes``: (n, a) integer codes of ``attributes`` (all by default). Holders of different attributes of the same
        records have the same cap and the same order of rows. Raises ``ProtocolError`` for a table above the cap or
        codes outside the shape.
        """
        held = tuple(range(len(self._layout.shape)) if attributes is None else attributes)
        check_attributes(held, self._layout)
        table = np.asarray(codes)
        if table.ndim != 2 or table.shape[1] != len(held) or not np.issubdtype(table.dtype, np.integer):
            raise ProtocolError(f"codes: need integers of shape (n, {len(held)})")
        self._within_cap(len(table))
        sizes = np.array([self._layout.shape[attribute] for attribute in held])
        if ((table < 0) | (table >= sizes)).any():
            raise ProtocolError("codes: some lie outside the declared shape; encode the table by its domain first")
        return self._record_frames(table.astype(np.int64), held)

    def upload_counts(self, counts: Sequence[Ints]) -> Iterator[bytes]:
        """Frames of encrypted marginals, in the order of the layout's cliques: one array of counts for each."""
        if len(counts) != len(self._layout.cliques):
            raise ProtocolError(f"counts: {len(counts)} marginals for {len(self._layout.cliques)} cliques")
        flat = [np.asarray(cells).reshape(-1) for cells in counts]
        for candidate, cells in enumerate(flat):
            if cells.size != self._layout.size(candidate) or not np.issubdtype(cells.dtype, np.integer):
                raise ProtocolError(f"counts: marginal {candidate} needs {self._layout.size(candidate)} integers")
            if cells.min() < 0:
                raise ProtocolError(f"counts: marginal {candidate} has a cell below 0")
            self._within_cap(int(cells.sum()))
        return self._count_frames(flat)

    def encrypt_noise_of(self, candidate: int, noise: Ints) -> list[bytes]:
        """One ciphertext for each that the candidate's marginal lies in. ``noise``: (cells,) of the marginal."""
        frames = []
        for number in self._layout.parts_of[candidate]:
            part = self._layout.parts[number]
            values = np.zeros(self._layout.profile.ring, dtype=np.int64)  # what is no cell, the server drowns
            values[part.places] = noise[part.cells]
            frames.append(self.encrypt_noise(values))
        return frames

    def encrypt_noise(self, values: Ints) -> bytes:
        """One ciphertext of (N,) integers to be added to one measured ciphertext, used once.

        Which coefficients will count is not known yet, so all of them need noise. It comes from outside: this class
        draws none.
        """
        profile = self._layout.profile
        noise = np.asarray(values)
        if noise.shape != (profile.ring,) or not np.issubdtype(noise.dtype, np.integer):
            raise ProtocolError(f"noise: needs {profile.ring} integers, one per coefficient")
        if np.abs(noise).max() + profile.records >= profile.plaintext // 2:
            raise ProtocolError(f"noise: too large for counts mod {profile.plaintext}; take a profile of more records")
        self._noises += 1
        return self._public.frame(Kind.NOISE, self._noises, self._public.encrypt(noise, profile.output_level))

    def _within_cap(self, records: int) -> None:
        if records > self._records:
            raise ProtocolError(f"records: the table has more than the declared cap of {self._records}")

    def _record_frames(self, table: Ints, held: tuple[int, ...]) -> Iterator[bytes]:
        layout = self._layout
        yield Opening("records", self._records, held).pack(self._public.run)
        polynomials = layout.polynomials(held)
        column = {attribute: place for place, attribute in enumerate(held)}
        blocks = layout.blocks(self._records)
        encrypted = choose_encrypt(self._public, blocks * len(polynomials))
        for block in range(blocks):
            rows = table[block * layout.rows : (block + 1) * layout.rows]

            def encrypt(number: int, rows: Ints = rows, first: int = block * len(polynomials)) -> bytes:
                polynomial = polynomials[number]
                payload = encrypted(self._one_hot(polynomial, rows[:, column[polynomial.attribute]]))
                return Frame(Kind.RECORDS, first + number, self._public.run, payload).pack()

            yield from each(encrypt, range(len(polynomials)), self._threads)

    def _one_hot(self, polynomial: Polynomial, values: Ints) -> Ints:
        """(N,) coefficients of one polynomial of a row block; X^-e is -X^(N - e)."""
        ring, t = self._layout.profile.ring, self._layout.profile.plaintext
        unit = int(self._public.centred(np.array([pow(self._layout.rows, -1, t)]))[0]) if polynomial.right else 1
        _, exponents = self._layout.exponents(polynomial, values)
        coefficients = np.zeros(ring, dtype=np.int64)
        coefficients[exponents % ring] = np.where(exponents < 0, -unit, unit)
        return coefficients

    def _count_frames(self, counts: Sequence[Ints]) -> Iterator[bytes]:
        layout = self._layout
        yield Opening("counts", self._records, tuple(range(len(self._layout.shape)))).pack(self._public.run)

        def encrypt(number: int) -> bytes:
            values = np.zeros(layout.profile.ring, dtype=np.int64)
            for part in (layout.parts[member] for member in layout.carriers[number]):
                values[part.places] = counts[part.candidate][part.cells]
            return self._public.frame(Kind.COUNTS, number, self._public.encrypt(values, 0))

        yield from each(encrypt, range(len(layout.carriers)), self._threads)
