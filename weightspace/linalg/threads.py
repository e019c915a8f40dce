"""Small matrices on one thread: more of them save no time there, and on busy processors wait for one another many times longer than they work."""

import contextlib
from collections.abc import Iterator

import torch

_SMALL = 512


@contextlib.contextmanager
def threads_for(size: int) -> Iterator[None]:
    """Work on matrices of this size with as many threads as they are worth: one, or those that torch has.

    Args:
        size: the shorter side.
    """
    before = torch.get_num_threads()
    if size > _SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
