"""AIM of this package, with our engine."""

from exchange import Codes, Task, answer

from marginal_sdg import AIM, Domain
from marginal_sdg.encoding import Table


def synthesise(task: Task, codes: Codes) -> Codes:
    """Fit, and sample as many records as the noisy total says."""
    domain = Domain.from_shape(dict(zip(task.names, task.sizes, strict=True)))
    aim = AIM(
        domain,
        epsilon=task.epsilon,
        delta=task.delta,
        workload=task.workload,
        seed=task.seed,
        **task.options,
    )
    return aim.fit(Table(domain, codes)).sample_table().codes


answer("marginal_sdg", synthesise)
