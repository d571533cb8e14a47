"""OpenDP's AIM, through the query for contingency tables.

It adds a null key to every column that has none; code 0 is handed over as null, so that its domain is the declared one.
"""

import mbi  # noqa: F401  (importing is not fitting)
import numpy as np
import opendp.prelude as dp
import polars as pl
from exchange import Codes, Task, answer

dp.enable_features("contrib")


def synthesise(task: Task, codes: Codes) -> Codes:
    """Fit with all keys given, so that no delta is needed, and sample as many records as the model says."""
    frame = pl.DataFrame({name: codes[:, i].astype(np.int64) for i, name in enumerate(task.names)})
    context = dp.Context.compositor(
        data=frame.with_columns(pl.all().replace(0, None)).lazy(),
        privacy_unit=dp.unit_of(contributions=1),
        privacy_loss=dp.loss_of(rho=task.rho),
    )
    keys = {name: [None, *range(1, size)] for name, size in zip(task.names, task.sizes, strict=True)}
    algorithm = dp.mbi.AIM(queries=[dp.mbi.Count(tuple(clique)) for clique in task.workload], **task.options)
    table = context.query(rho=task.rho).contingency_table(keys=keys, algorithm=algorithm).release()
    return np.asarray(table.synthesize().select(task.names).fill_null(0).to_numpy())


answer("opendp", synthesise)
