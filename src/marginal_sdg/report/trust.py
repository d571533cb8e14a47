"""Who is trusted with what, under each mechanism: the words of its report's privacy statement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trust:
    """A trust model. ``assuming`` and ``not_promised``: what holds for this mechanism beside what holds for all."""

    data: str
    noise: str
    protected: str
    assuming: tuple[str, ...]
    not_promised: tuple[str, ...]


ASSUMING = (
    "Domain, workload and parameters were chosen without looking at the records.",
    "The noise comes from the operating system's randomness, not from a seed.",
)
NOT_PROMISED = (
    "That nothing is learned about a group, or about somebody from what is true of people in general: the guarantee "
    "bounds what one record, or one person's records, can change.",
    "Anything about other releases on the same people: their epsilons add up, and only a shared ledger sees them.",
    "That running times do not tell how large the table is; timing side channels are not addressed.",
    "That the software is free of errors: it is research software without external review.",
)

_FOLLOWS = "All parties follow the protocol, though they may be curious."

CURATOR = Trust(
    "one curator holds the table",
    "the curator",
    "each record, from everyone who sees the model, its measurements, the ledger and any amount of synthetic data",
    ("The curator is honest.",),
    ("Anything against the curator, who has the table.",),
)
FEDERATION = Trust(
    "each client holds its own records",
    "clients on their sizes, selections and local steps; the server on sums",
    "each record, from everyone who sees what the server releases, and from the other clients",
    (_FOLLOWS, "Secure aggregation shows the server sums only."),
    (
        "Anything against the server, which adds the noise to the sums and so sees them exactly; least of all for a "
        "client that is alone in a round or with its pick.",
        "Anything against a server that lies about keys or dropouts, or clients that collude with it.",
        "That a client's participation is hidden.",
    ),
)
OWN_NOISE = Trust(
    "each client holds its own records",
    "the clients: on sums each a part, before the server can see them",
    "each record, from everyone who sees the output, and from the server, also with `colluding` clients that help it",
    (_FOLLOWS, "Secure aggregation shows the server sums only, and no more clients help it than `colluding`."),
    (
        "Anything against a server that puts its own keys in place of the clients', or lies about who has stayed.",
        "That a client's participation is hidden.",
    ),
)
SHARES = Trust(
    "three servers hold the clients' answers in secret shares",
    "the three servers, each a part",
    "each record, from everyone who sees what the servers open, and from each server by itself",
    (_FOLLOWS, "No two servers collude."),
    (
        "Anything against two servers together, who see all answers.",
        "That a server which deviates from the protocol is caught.",
        "That a client's participation is hidden.",
    ),
)
ENCRYPTED = Trust(
    "one or several data holders; a server has ciphertexts, a key holder the key",
    "the data holders, encrypted; of several, each a part",
    "each record, from everyone who sees the releases, and from each other data holder; the table, from the server and "
    "from the key holder",
    (_FOLLOWS, "Server and key holder do not collude.", "At least 128 bits of security of the encryption."),
    (
        "Anything against server and key holder together, who can add up every marginal.",
        "Anything against data holders that collude with each other.",
        "That messages between machines are authenticated: a tunnel must do this.",
    ),
)
GRADIENTS = Trust(
    "each client holds its own records",
    "clients on the gradients of their records; the server on sums of 1-way marginals",
    "each record, from everyone who sees the model and any amount of synthetic data; gradients, from the server too",
    (_FOLLOWS, "Secure aggregation shows the server sums of 1-way marginals only."),
    ("Anything against the server about 1-way marginals.", "That a client's participation is hidden."),
)

_BY_CLASS = {
    "AIM": CURATOR,
    "DPCTGAN": CURATOR,
    "FLAIM": FEDERATION,
    "DistAIM": SHARES,
    "FHAIM": ENCRYPTED,
    "FedDPCTGAN": GRADIENTS,
}


def trust_of(kind: type, noise: str | None = None) -> Trust:
    """The trust model of an estimator's class, or of the one that it derives from; KeyError where there is none.

    ``noise``: FLAIM's parameter, which says who adds it.
    """
    if noise == "clients":
        return OWN_NOISE
    for known in kind.__mro__:
        if known.__name__ in _BY_CLASS:
            return _BY_CLASS[known.__name__]
    raise KeyError(f"{kind.__name__}: no trust model is written down")
