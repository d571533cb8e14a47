# %% [markdown]
# # A first table in five minutes
#
# From a table that must not be shared to a synthetic one that can be, with one curator who may see the data (AIM).
# The table here is Adult, which comes with the package; on yours, only the first cell changes.

# %%
from marginal_sdg import AIM, load_dataset

adult = load_dataset("adult")
table = adult.frame
table.head()

# %% [markdown]
# What values a column may take is *declared*, from public knowledge. It is never read off the private rows, because
# bounds and categories that come from the data tell about the people in it.

# %%
domain = adult.domain.project(["age", "workclass", "education-num", "sex", "hours-per-week", "income"])
domain

# %% [markdown]
# Six columns will do. `epsilon` is the privacy budget: how much the result may depend on any one record. A seed makes
# this page repeatable; a real release has none, and `secure=True` refuses one.

# %%
aim = AIM(domain, epsilon=1.0, seed=0)
aim.fit(table[list(domain)])
synthetic = aim.sample()
synthetic.head()

# %% [markdown]
# It has the columns, labels and types of the input, and about as many rows: how many people there are is private too,
# so the number is a noisy one.

# %%
len(table), len(synthetic)

# %% [markdown]
# Marginals of the model need no sampling. The standard error is that of the privacy noise, known without the data.

# %%
aim.marginal(["sex", "income"]).round(1)

# %% [markdown]
# The curator, who may look at the real rows, compares. What this shows is itself private.

# %%
import pandas as pd

shares = {
    name: rows.groupby("sex")["income"].value_counts(normalize=True).unstack()[">50K"]
    for name, rows in (("real", table), ("synthetic", synthetic))
}
pd.DataFrame(shares).round(3)

# %% [markdown]
# The model can be kept, and asked again later at no further cost: it is a function of what was paid for.

# %%
import tempfile
from pathlib import Path

from marginal_sdg import GraphicalModel

with tempfile.TemporaryDirectory() as folder:
    aim.model_.save(Path(folder) / "model.npz")
    model = GraphicalModel.load(Path(folder) / "model.npz")

model
