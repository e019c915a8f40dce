"""A Ray cluster of two processes and a Dask cluster of two, in this process's hands and on this machine's own addresses."""

import contextlib
import gc
import importlib.util
import os
import subprocess
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def on_ray() -> Iterator[None]:
    """Connected to a Ray cluster, as `weightspace.parallel` starts one where there is none."""
    from weightspace.parallel import ray

    os.environ.pop("RAY_ADDRESS", None)
    with ray._connected(2):
        yield
        # By type: some objects answer isinstance with a deprecation warning.
        processes = [one for one in gc.get_objects() if issubclass(type(one), subprocess.Popen)]
    for one in processes:  # Ray ends them, and forgets to wait for it
        one.wait(20)


@contextlib.contextmanager
def on_dask() -> Iterator[None]:
    """Connected to a Dask cluster, as `weightspace.parallel` starts one where there is none."""
    import distributed

    from weightspace.parallel import dask

    os.environ.pop("DASK_SCHEDULER_ADDRESS", None)
    with dask._client(distributed, 2) as client, client.as_current():
        yield


CLUSTERS = {"ray": on_ray, "dask": on_dask}


@pytest.fixture(scope="session")
def running() -> Iterator[contextlib.ExitStack]:
    """The clusters that were started; all end with the session."""
    with contextlib.ExitStack() as stack:
        yield stack


_started: set[str] = set()


def started(name: str, running: contextlib.ExitStack) -> str:
    """Start a backend's cluster if it has one that does not run yet."""
    if name in CLUSTERS and name not in _started:
        package = {"ray": "ray", "dask": "distributed"}[name]
        if importlib.util.find_spec(package) is None:  # not imported here: Ray is to find its settings when it is
            pytest.skip(f"no package {package}")
        running.enter_context(CLUSTERS[name]())
        _started.add(name)
    return name


@pytest.fixture(params=CLUSTERS)
def cluster(request: pytest.FixtureRequest, running: contextlib.ExitStack) -> str:
    """The name of a backend whose cluster runs."""
    return started(request.param, running)


@pytest.fixture(params=["local", "threads", *CLUSTERS])
def backend(request: pytest.FixtureRequest, running: contextlib.ExitStack) -> str:
    """The name of a backend, be it a cluster's or not."""
    return started(request.param, running)


@pytest.fixture(params=["local", *CLUSTERS])
def processes(request: pytest.FixtureRequest, running: contextlib.ExitStack) -> str:
    """The name of a backend whose workers are processes, which can be killed."""
    return started(request.param, running)


@pytest.fixture
def in_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an ingest of a few small files have much to hand out."""
    from weightspace.zoo import ingest, reading

    monkeypatch.setattr(ingest, "TASK_FILES", 2)
    monkeypatch.setattr(ingest, "_FEW", 0)
    monkeypatch.setattr(reading, "PART_BYTES", 1 << 18)
