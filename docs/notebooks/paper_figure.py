# %% [markdown]
# # Reproducing a figure of a paper
#
# Figure 3c of FLAIM (Maddock, Cormode, Maple, KDD 2024): Adult is spread over a hundred unlike clients, of which a
# share p takes part in every round. DistAIM needs servers that compute on secret shares, FLAIM only a secure sum. How
# much error does that cost?
#
# The whole figure is one command, `python experiments/run.py --config figure3c.yaml`. Here are two of its six points,
# with one seed, built by hand. `calibration="paper"` repeats the published accounting.

# %%
import numpy as np
import pandas as pd

from marginal_sdg import AIM, FLAIM, DistAIM, Workload, load_dataset
from marginal_sdg.datasets import partition, split
from marginal_sdg.metrics import workload_error

table, _ = split(load_dataset("adult").table())
owner = partition(table, 100, "cluster")
clients = [table.take(np.flatnonzero(owner == k)) for k in range(100)]
workload = Workload.random(table.domain)
common = {"workload": workload, "calibration": "paper", "seed": 0}


def error(fit):
    """Mean L1 distance of the workload's normalised marginals, on as many synthetic rows."""
    return workload_error(table, fit.sample_table(len(table)), workload)


# %%
ours = pd.DataFrame(
    {
        p: {
            "DistAIM": error(DistAIM(table.domain, weighting="equal", participation=p, **common).fit(clients)),
            "NaiveFLAIM": error(FLAIM(table.domain, variant="naive", participation=p, **common).fit(clients)),
            "AugFLAIM (Private)": error(FLAIM(table.domain, participation=p, **common).fit(clients)),
        }
        for p in (0.1, 0.5)
    }
).T.rename_axis("participation")
ours["AIM"] = error(AIM(table.domain, **common).fit(table))  # everything in one place: no participation
ours.round(3)

# %% [markdown]
# As dots, over the committed runs of the whole figure (means over their seeds, as lines). One seed may lie well off the
# mean, NaiveFLAIM's most of all:

# %%
import matplotlib.pyplot as plt

summary = pd.read_csv("../../experiments/results/figure3c/summary.csv")
runs = summary.pivot(index="participation", columns="method", values="workload_error_mean")
fig, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, colour, marker in zip(ours, ["#E69F00", "#D55E00", "#009E73", "#0072B2"], "s^Do", strict=True):
    if name == "AIM":
        axes.axhline(runs[name].dropna().item(), color=colour, alpha=0.5)
    else:
        axes.plot(runs[name].dropna(), color=colour, alpha=0.5)
    axes.plot(ours[name], marker, color=colour, label=name)
axes.set(xlabel="participation p", ylabel="workload error", ylim=(0, None))
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Which statements of the paper the committed runs confirm, and which they do not, stands in
# [the results](../experiments/results/statements.md).
