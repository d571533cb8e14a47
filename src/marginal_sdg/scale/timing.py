"""What one core does in a second, and what parties are assumed to have.

Measured by ``experiments/scale.py`` on one core of a shared AMD EPYC server (Linux, Python 3.10, NumPy 2.2): the least
of several repeats, at the sizes named there. They change with the machine; the bytes do not.
"""

COUNT = 9.6e-9  # CPU seconds to count and score one record in one marginal
MASK = 1.5e-10  # to expand and add one byte of a mask
NEIGHBOUR = 7.9e-5  # to agree on keys and shares with one neighbour
UNMASK = 7.2e-6  # of the server, to combine one share of a client's seed
SHARE = 1.9e-9  # of a client, to split and seal one cell
RECEIVE = 1.5e-9  # of a server, to open and add one cell of a client's share
COMPARE = 1.7e-9  # of a server, per byte that it sends in a selection

DAY = 86_400.0  # seconds that a run may take
CLIENT_LINK, SERVER_LINK = 10e6 / 8, 10e9 / 8  # bytes a second: 10 Mbit/s, 10 Gbit/s
CLIENT_CORES, SERVER_CORES = 1, 32
CLIENT_MEMORY, SERVER_MEMORY = 4 * 2**30, 256 * 2**30  # bytes
