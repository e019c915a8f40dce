"""One function over many items, drawn lazily, results in their order, whichever workers do it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Generic, TypeVar

from weightspace.errors import ClusterError, WorkerDiedError, one_line
from weightspace.parallel.interrupt import Interrupt
from weightspace.parallel.pool import Backend, Pool, backends

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 3  # items that are handed out for each worker: one it works on, and some for the time in which the caller is busy
_PATIENCE = 0.2  # seconds after which Ctrl-C is looked for


def run(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    jobs: int | None = None,
    backend: str = "local",
    died: Callable[[Item, WorkerDiedError], Result] | None = None,
) -> Generator[Result, None, None]:
    """Apply a function to every item and yield the results in the order of the items.

    With several jobs, Ctrl-C is raised here and nowhere else: when the work that has begun is done (on a cluster: is let go), and at
    once when it is pressed again. A caller that stops early waits for what has begun, and closes the generator. What is local ends
    with this process, also if that is killed.

    Where a worker dies, its work is done again. Nobody can always tell whose work killed a worker that several had work at, so each
    that may have is done by itself; where it is alone and its worker dies again, that item is to blame, and no other.

    joblib's own backends for Ray and Dask are not used: that for Ray refuses to give results one by one, and with that for Dask a run
    was still waiting after 40 seconds where an item killed each of its workers.

    Args:
        function: importable by name, or picklable by cloudpickle, since it crosses to other processes; so are items and results.
        items: drawn as they are needed, a few ahead.
        jobs: workers; by default this process alone without any start-up, or all there are in a cluster. On a cluster that others
            started, at most three times as many items are handed out, and it works on as many as it has room for.
        backend: `local` processes, `threads` of this process, a `ray` or a `dask` cluster; see `docs/cluster.md`.
        died: gives what stands in for the result of an item that its worker died of twice; by default the error is raised.

    Raises:
        UnknownNameError: no such backend.
        MissingDependencyError: its package is not installed.
        ClusterError: a cluster cannot be reached, or is lost.
        WorkerDiedError: an item kills its worker; results already yielded stay good.
    """
    opener = backends[backend]
    if backend == "local" and (jobs or 1) <= 1:
        return _here(function, items)
    return _elsewhere(opener, function, items, jobs, died)


def _here(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    yield from map(function, items)


def _elsewhere(
    opener: Backend,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    jobs: int | None,
    died: Callable[[Item, WorkerDiedError], Result] | None,
) -> Generator[Result, None, None]:
    with Interrupt() as interrupt:
        with opener(function, jobs) as pool:
            yield from _Run(pool, iter(items), interrupt, died).results()
        if interrupt.is_pressed:
            raise KeyboardInterrupt


class _Run(Generic[Item, Result]):
    """What is handed out, in order."""

    def __init__(
        self, pool: Pool, items: Iterator[Item], interrupt: Interrupt, died: Callable[[Item, WorkerDiedError], Result] | None
    ) -> None:
        self.pool, self.items, self.interrupt, self.died = pool, items, interrupt, died
        self.handed: deque[tuple[Item, Future[Result]]] = deque()
        self.is_withdrawn = False

    def results(self) -> Generator[Result, None, None]:
        """Yield them in order."""
        is_waited_for = True
        try:
            while self._hand_out():
                item, future = self.handed[0]
                try:
                    result = self._result(future)
                except self.pool.died as error:
                    result = self._again(item, error)
                self.handed.popleft()
                yield result
        except CancelledError:
            if not self.is_withdrawn:
                raise ClusterError("the cluster gave work back undone; see that it still runs, and begin again") from None
        except KeyboardInterrupt:  # it was pressed again
            is_waited_for = False
            raise
        finally:
            self._withdraw()
            if is_waited_for:
                wait([future for _, future in self.handed])

    def _hand_out(self) -> bool:
        """Keep the workers busy; False when everything was yielded."""
        if self.interrupt.is_pressed:
            self._withdraw()
        while len(self.handed) < _AHEAD * self.pool.size and not self.is_withdrawn:
            try:
                item = next(self.items)
            except StopIteration:
                break
            self.handed.append((item, self.pool.submit(item)))
        return bool(self.handed)

    def _result(self, future: "Future[Result]") -> Result:
        while not wait([future], _PATIENCE).done:
            if self.interrupt.is_pressed:
                self._withdraw()
        return future.result()

    def _again(self, item: Item, error: BaseException) -> Result:
        """Do an item by itself whose worker died."""
        wait([future for _, future in self.handed])
        if self.is_withdrawn:
            raise CancelledError
        again = self.pool.submit(item)
        self.handed[0] = item, again
        try:
            return self._result(again)
        except self.pool.died as last:
            said = WorkerDiedError(
                f"a worker died twice of one item ({one_line(str(last) or type(last).__name__, 120)}); "
                "there may not be enough memory for it, or a library cannot stand it"
            )
            if self.died is None:
                raise said from error
            return self.died(item, said)

    def _withdraw(self) -> None:
        if not self.is_withdrawn:
            self.is_withdrawn = True
            self.pool.withdraw()
