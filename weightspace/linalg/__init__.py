"""Singular values and vectors of weight matrices: exact, the top few with a proof that none was missed, and of low-rank updates."""

from weightspace.linalg.kept import Cache as Cache
from weightspace.linalg.kept import cached_singular_values as cached_singular_values
from weightspace.linalg.kept import cached_svd as cached_svd
from weightspace.linalg.singular import Method as Method
from weightspace.linalg.singular import Singular as Singular
from weightspace.linalg.singular import each as each
from weightspace.linalg.singular import singular_values as singular_values
from weightspace.linalg.singular import svd as svd
from weightspace.linalg.threads import one_thread as one_thread
from weightspace.linalg.threads import threads_for as threads_for
from weightspace.linalg.top import top_singular as top_singular
from weightspace.linalg.updating import updated as updated

__all__ = [
    "Cache",
    "Method",
    "Singular",
    "cached_singular_values",
    "cached_svd",
    "each",
    "one_thread",
    "singular_values",
    "svd",
    "threads_for",
    "top_singular",
    "updated",
]
