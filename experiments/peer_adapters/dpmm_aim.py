"""AIM of dpmm, without its binning, because the table is coded already."""

import numpy as np
import pandas as pd
from dpmm.pipelines import AIMPipeline
from exchange import Codes, Task, answer


def synthesise(task: Task, codes: Codes) -> Codes:
    """Fit, and sample as many records as there are: it has to be told a number."""
    aim = AIMPipeline(
        epsilon=task.epsilon,
        delta=task.delta,
        max_model_size=80,  # of its AIM; the pipeline has no limit
        n_jobs=1,
        gen_kwargs={"degree": task.ways, **task.options},
        disable_processing=True,
    )
    domain = dict(zip(task.names, task.sizes, strict=True))
    aim.fit(pd.DataFrame(codes, columns=task.names), domain=domain, random_state=task.seed)
    return np.asarray(aim.generate(n_records=len(codes))[task.names].to_numpy())


answer("dpmm", synthesise)
