"""FHAIM's protocols on CKKS slots, as its paper has them: the yardstick of the exact ones in ``crypto.fhe``.

Roles and bytes as there: a data holder uploads encrypted one-hot columns and noise, a server multiplies, sums and
scores, a key holder decrypts noisy scores and noisy marginals. Values are approximate: measured counts are rounded.

==========  ===========================================================================================================
COMP        how the server counts
==========  ===========================================================================================================
``plain``   per cell: product, relinearise, rescale, rotate and sum; the paper's obvious reading, HYBRID key switching
``lazy``    per cell: products of all row blocks summed, one relinearisation, hoisted rotations, half the ring under BV
``packed``  all cells of a marginal beside each other: one relinearisation and few rotations for the whole marginal
==========  ===========================================================================================================

Semi-honest parties; server and key holder do not collude. Either the key holder decrypts every noisy score, which is
more than a selection by report-noisy-max pays for, or it gets scores under pads, which hide them statistically, for a
circuit on shares. Under a profile that is not ``flooded`` approximation errors reach it too.
"""
