"""Marginals of an encrypted table: exact integers under BGV among data holders, a server and a key holder.

The roles (``holder``, ``server``, ``keyholder``) exchange bytes only and agree on a public ``Layout`` beforehand:

1. the key holder announces a public key and evaluation keys;
2. data holders upload encrypted records, or encrypted counts; the server computes all marginals (COMP);
3. SELECT leaves server and key holder with additive halves, mod t, of ``||M - w||^2`` for public counts w: in every
   round by products of encrypted marginals and w, or from halves of marginals and norms that were shared once;
4. MEASURE adds the data holders' encrypted noise to a marginal; the key holder decrypts and releases the sum.

Semi-honest parties; server and key holder do not collude. What noise there is and what a release costs is not decided
here: noise and random keys come from outside. FHAIM is the paper's name for AIM on such ciphertexts.
"""
