"""The zoo's own store of weights: each content once, plain or compact, in a folder of the zoo or an object store."""

from weightspace.zoo.store.putting import STAMP, copied, is_as_named, kept, kept_many, open_stored, put, put_anew, stored
from weightspace.zoo.store.roots import keep_at, key_of, root_of

__all__ = [
    "STAMP",
    "copied",
    "is_as_named",
    "keep_at",
    "kept",
    "kept_many",
    "key_of",
    "open_stored",
    "put",
    "put_anew",
    "root_of",
    "stored",
]
