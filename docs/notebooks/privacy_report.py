# %% [markdown]
# # Reading the privacy report
#
# Whoever gets synthetic data should ask what was promised, and whoever releases it should be able to answer. Everything
# that left the data went through one ledger, so the answer is a table.

# %%
from marginal_sdg import AIM, Budget, Ledger, load_dataset
from marginal_sdg.errors import BudgetError
from marginal_sdg.privacy.noise import Source

pima = load_dataset("diabetes_pima")
aim = AIM(pima.domain, epsilon=1.0, delta=1e-5, rounds=5, workload=[("Age", "Outcome"), ("BMI", "Glucose")])
aim.fit(pima.frame)
ledger = aim.ledger.to_frame()
ledger

# %% [markdown]
# One row is one payment, oldest first. Read across:
#
# * `what` was released: measured marginals, or which one was selected;
# * `mechanism` and its noise: discrete Gaussian noise of standard deviation `sigma` in every cell, or an exponential
#   mechanism with parameter `epsilon`;
# * `per_record`: how many of the cells one record can be in;
# * `rho`, its cost in zero-concentrated differential privacy, and `share`, how much of the budget is gone after it;
# * `by`, who adds the noise.
#
# The costs add up to the budget, exactly: they are rational numbers, not floating-point ones.

# %%
sum(charge.rho for charge in aim.ledger.charges) == aim.ledger.spent, float(aim.ledger.remaining)

# %% [markdown]
# In the terms in which the promise was made, at the `delta` of the promise:

# %%
aim.ledger.epsilon()

# %% [markdown]
# ## Caveats
#
# What weakens the promise is said here and in every report. This fit has none. One with a seed has one, because whoever
# knows the seed knows the noise; one that repeats the published calibration has another.

# %%
aim.ledger.caveats

# %%
AIM(pima.domain, rounds=5, seed=0, calibration="paper").fit(pima.frame).ledger.caveats

# %% [markdown]
# ## One budget for several fits
#
# Promises about the same people add up. A shared ledger refuses the fit that would exceed their sum, before it spends
# anything:

# %%
shared = Ledger(Budget(1.5, 1e-5), Source.system())
AIM(pima.domain, epsilon=1.0, rounds=5).fit(pima.frame, ledger=shared)
try:
    AIM(pima.domain, epsilon=1.0, rounds=5).fit(pima.frame, ledger=shared)
except BudgetError as error:
    print(error)
shared.epsilon()

# %% [markdown]
# ## The page
#
# `report()` writes all this, the settings and the model's marginals to one HTML file without scripts. Given the real
# rows, it also shows errors: such a page is private, says so at its top, and is for the holder's eyes only.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    public = aim.report().save(Path(folder) / "report.html").read_text()
    private = aim.report(pima.frame).save(Path(folder) / "private.html").read_text()

"NOT PRIVATE" in public, "NOT PRIVATE" in private
