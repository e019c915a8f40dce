"""Fan-out: one function over many items on several processes or machines, results in order."""

from weightspace.errors import ClusterError, WorkerDiedError
from weightspace.parallel.cores import available_cores
from weightspace.parallel.fan_out import run
from weightspace.parallel.pool import Pool, backend, backends
from weightspace.parallel.threads import is_wanted

__all__ = ["ClusterError", "Pool", "WorkerDiedError", "available_cores", "backend", "backends", "is_wanted", "run"]
