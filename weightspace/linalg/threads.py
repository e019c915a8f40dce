"""Small matrices on one thread: more of them save no time there, and on busy processors wait for one another many times longer than they work."""

import contextlib
from collections.abc import Iterator

import torch

_SMALL = 512


def threads_for(size: int) -> contextlib.AbstractContextManager[None]:
    """Work on matrices of this size with as many threads as they are worth: one, or those that torch has.

    Args:
        size: the shorter side.
    """
    return contextlib.nullcontext() if size > _SMALL or torch.get_num_threads() == 1 else one_thread()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: sums come out the same wherever they are made."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
