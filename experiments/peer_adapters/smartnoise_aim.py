"""SmartNoise's AIM. By default it learns each column's values from the private rows; here it gets the domain."""

import numpy as np
import pandas as pd
from exchange import Codes, Task, answer
from snsynth import Synthesizer
from snsynth.transform import LabelTransformer, TableTransformer


def synthesise(task: Task, codes: Codes) -> Codes:
    """Fit, and sample as many records as there are, which is its default."""
    every_code = np.stack([np.arange(max(task.sizes)) % size for size in task.sizes], axis=1)
    transformer = TableTransformer([LabelTransformer(nullable=False) for _ in task.names])
    transformer.fit(pd.DataFrame(every_code, columns=task.names))
    aim = Synthesizer.create("aim", epsilon=task.epsilon, delta=task.delta, degree=task.ways, **task.options)
    aim.fit(pd.DataFrame(codes, columns=task.names), transformer=transformer)
    return np.asarray(aim.sample()[task.names].to_numpy())


answer("smartnoise-synth", synthesise)
