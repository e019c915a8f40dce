"""The zoo's own store of weights: each content once, plain or compact, in a folder of the zoo or an object store."""

from weightspace.zoo.store.putting import STAMP, copied, kept, kept_many, open_stored, put, stored
from weightspace.zoo.store.roots import keep_at, key_of, root_of

__all__ = ["STAMP", "copied", "keep_at", "kept", "kept_many", "key_of", "open_stored", "put", "root_of", "stored"]
