"""A process that has loaded everything and forks one for each piece of work, so that a test can kill that at any moment of the work itself.

Reads lines of JSON, `{"work": name, "arguments": [...]}`; answers with the process id of the fork, then with how it ended.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping

import weightspace.parallel
import weightspace.zoo.hub.ingesting
import weightspace.zoo.hub.pulling
import weightspace.zoo.hub.pushing  # noqa: F401 - loaded here, used by the forks
from weightspace.checkpoint import Checkpoint
from weightspace.zoo import Zoo, ingest, reading
from weightspace.zoo import results as written
from weightspace.zoo.hub import pull_zoo, push_zoo, shards


def measured(checkpoint: Checkpoint) -> Mapping[str, float]:
    """What the map measures."""
    return {name: float(sum(checkpoint.raw(name)[:64])) for name in checkpoint.info}


def push(zoo: str) -> None:
    shards.SHARD_BYTES = 1 << 14  # several shards
    push_zoo(Zoo(zoo), "lab/zoo", private=True)


def pull(there: str) -> None:
    pull_zoo(Zoo(there).catalog, "lab/zoo")


def take_in(there: str, tree: str, jobs: str) -> None:
    ingest.FLUSH_TENSORS, ingest.TASK_FILES, reading.PART_BYTES = 0, 4, 1 << 18  # many transactions
    ingest._FEW = 0
    Zoo(there).ingest(tree, jobs=int(jobs), copy=True)


def map_all(zoo: str, jobs: str) -> None:
    written.FLUSH_SECONDS = 0.0
    Zoo(zoo).map(measured, measure="first bytes", jobs=int(jobs))


WORK: Mapping[str, Callable[..., None]] = {"push": push, "pull": pull, "ingest": take_in, "map": map_all}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                WORK[asked["work"]](*asked["arguments"])
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)


if __name__ == "__main__":
    main()
