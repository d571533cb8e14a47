# %% [markdown]
# # Choosing a trust model
#
# The four methods run the same loop. They differ in where the exact counts live and who adds the noise, so the question
# is not which is best but **whom may the data be shown to**:
#
# * somebody may hold all of it: `AIM`;
# * it is spread over clients who trust a server to see sums, but not their tables: `FLAIM`;
# * it is spread over clients, and there are three servers of which no two conspire: `DistAIM`;
# * one holder has it, and a server that may not see it does the work: `FHAIM`.
#
# What follows is the same table, budget and workload under all four. It is Pima Indians Diabetes, which is small.

# %%
from marginal_sdg import AIM, FHAIM, FLAIM, DistAIM, Workload, load_dataset
from marginal_sdg.datasets import partition

pima = load_dataset("diabetes_pima")
domain, table = pima.domain, pima.table()
workload = Workload.random(domain, count=64, ways=2)

# %% [markdown]
# Twenty clients with different mixtures of outcomes:

# %%
owner = partition(table, 20, "dirichlet:0.5", seed=0, target="Outcome")
clients = [table.take(owner == k) for k in range(20)]
[len(client) for client in clients]

# %% [markdown]
# A budget of 5, as so few records need. The federated methods ask half of the clients in every round.

# %%
common = {"epsilon": 5.0, "rounds": 5, "workload": workload, "seed": 0}
fits = {
    "AIM": AIM(domain, **common).fit(table),
    "FLAIM": FLAIM(domain, participation=0.5, **common).fit(clients),
    "FLAIM (census)": FLAIM(domain, variant="census", participation=0.5, **common).fit(clients),
    "DistAIM": DistAIM(domain, participation=0.5, **common).fit(clients),
    "FHAIM": FHAIM(domain, max_records=1000, **common).fit(table),
}

# %% [markdown]
# Who was charged for what: each ledger names the party that adds the noise.

# %%
import pandas as pd

from marginal_sdg.metrics import workload_error

rows = [
    {
        "method": name,
        "noise by": ", ".join(sorted(set(fit.ledger.to_frame()["by"]))),
        "releases": len(fit.ledger.charges),
        "epsilon spent": round(fit.ledger.epsilon(), 3),
        "workload error": round(workload_error(table, fit.sample_table(), workload), 3),
    }
    for name, fit in fits.items()
]
pd.DataFrame(rows).set_index("method")

# %% [markdown]
# All spend the same. The error is the price of the trust model, on one small table and in one run, which says little
# about others: the committed results compare them over many.
#
# Here all ran in the clear, and computed what their protocols would (`engine="ideal"`). DistAIM can run its protocol,
# on secret shares, and gives the same numbers exactly:

# %%
shares = DistAIM(domain, engine="shares", participation=0.5, **common).fit(clients)
shares.sample(500, seed=1).equals(fits["DistAIM"].sample(500, seed=1))
