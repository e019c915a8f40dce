"""What the functions and classes that a pickle names would do: plain data, code, or something unknown here."""

import re
from collections.abc import Iterable

from weightspace.containers.pickles import Global, Pickle
from weightspace.errors import FormatError

ADVICE = "do not load it; ask its author for safetensors or a plain state dict"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BUILTINS = _words(
    """
    set frozenset list dict tuple int float complex bool str bytes bytearray slice range object long unicode type NoneType Ellipsis
    NotImplemented
    """
)
_REBUILD = _words(
    """
    _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor
    _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage _rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy
    _rebuild_device_tensor_from_cpu_tensor _rebuild_xla_tensor _rebuild_nested_tensor
    """
)
_STORAGES = _words(
    """
    FloatStorage DoubleStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage CharStorage ByteStorage BoolStorage
    ComplexFloatStorage ComplexDoubleStorage QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage UntypedStorage
    TypedStorage _UntypedStorage _TypedStorage
    """
)
_DATES = _words("datetime date time timedelta timezone")
_PATHS = _words("PosixPath WindowsPath PurePosixPath PureWindowsPath Path PurePath")

# Names that describe data. What is listed here is understood (or at least harmless), whatever module it comes from.
_INERT: dict[str, frozenset[str]] = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,
    "collections": _words("OrderedDict defaultdict deque Counter"),
    "torch._utils": _REBUILD,
    "torch._tensor": _words("_rebuild_from_type_v2 _rebuild_from_type Tensor"),
    "torch.nn.parameter": _words("Parameter Buffer UninitializedParameter UninitializedBuffer"),
    "torch.nn": _words("Parameter Buffer"),
    "torch.storage": _STORAGES,
    "torch.cuda": _STORAGES,
    "torch.serialization": _words("_get_layout"),
    "torch.jit._pickle": _words("build_intlist build_doublelist build_boollist build_tensorlist restore_type_tag"),
    "numpy": _words(
        "dtype ndarray bool_ bool float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 complex64 complex128 str_ bytes_"
    ),
    "numpy.core.multiarray": _words("_reconstruct scalar"),
    "numpy._core.multiarray": _words("_reconstruct scalar"),
    "numpy.core.numeric": _words("_frombuffer"),
    "numpy._core.numeric": _words("_frombuffer"),
    "torch.distributed.checkpoint.metadata": _words(
        "Metadata TensorStorageMetadata TensorProperties ChunkStorageMetadata BytesStorageMetadata MetadataIndex StorageMeta "
        "_MEM_FORMAT_ENCODING"
    ),
    "torch.distributed.checkpoint.filesystem": _words("_StorageInfo _StoragePrefix"),
    "argparse": _words("Namespace"),
    "types": _words("SimpleNamespace"),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "_codecs": _words("encode"),
    "copyreg": _words("_reconstructor"),
    "copy_reg": _words("_reconstructor"),
    "datetime": _DATES,
    "decimal": _words("Decimal"),
    "fractions": _words("Fraction"),
    "uuid": _words("UUID"),
    "io": _words("BytesIO StringIO"),
    "_io": _words("BytesIO StringIO"),
}
# What torch itself names besides functions: types, constants and dtypes. Its functions are unknown, and so refused.
_TORCH = _STORAGES | _words(
    """
    Size device Tensor Generator dtype layout memory_format strided sparse_coo sparse_csr contiguous_format channels_last preserve_format
    per_tensor_affine per_channel_affine per_channel_affine_float_qparams per_tensor_symmetric per_channel_symmetric
    """
)
_TORCH_DTYPE = re.compile(
    r"(?:float|bfloat|int|uint|complex|qint|quint|bits)\d\w*|bool|double|half|long|short|float|int|cfloat|cdouble|chalf"
)

# DTensors are described by classes that move between modules from one torch to the next.
_SHARDING = ("torch.distributed.tensor", "torch.distributed._tensor", "torch.distributed.device_mesh", "torch.distributed._mesh_layout")

# Modules whose functions reach out of the process or make code; first part of a dotted path, or any part of a name.
_DANGEROUS = _words(
    """
    os posix nt ntpath posixpath subprocess sys importlib runpy socket socketserver shutil ctypes _ctypes cffi pickle _pickle cPickle dill
    cloudpickle marshal shelve copyreg code codeop commands pty pdb bdb cProfile profile timeit trace webbrowser http urllib urllib2 requests
    httpx aiohttp ftplib smtplib telnetlib asyncio multiprocessing concurrent threading _thread signal platform tempfile inspect types
    functools operator _operator pip ensurepip venv setuptools distutils pkg_resources site zipimport imp pkgutil gc atexit linecache
    pydoc doctest unittest resource fcntl mmap io _io tokenize ast dis sqlite3 xmlrpc glob fileinput builtins __builtin__ antigravity
    """
)
_DANGEROUS_NAMES = _words(
    """
    eval exec compile execfile open input getattr setattr delattr globals locals vars __import__ import_module breakpoint system popen spawn
    fork load loads load_module run call check_output Popen apply runstring runctx rmtree unlink remove __globals__ __builtins__
    __subclasses__ __class__ __getattribute__ __init__ __reduce__ __reduce_ex__ __code__ __dict__ __call__ read_pickle loadtxt
    load_url load_state_dict_from_url _load_from_bytes CDLL
    """
)


def is_inert(found: Global) -> bool:
    """Whether a global is plain data here: tensors, containers, numbers, dtypes, paths, namespaces."""
    if found.module == "torch":
        return found.name in _TORCH or _TORCH_DTYPE.fullmatch(found.name) is not None
    if found.module.startswith(_SHARDING) and _names_class(found):
        return True
    return found.name in _INERT.get(found.module, ())


def is_dangerous(found: Global) -> bool:
    """Whether unpickling could reach out of the process or make code through this global, whatever it is called with.

    Protocol 4 may name an attribute path (`torch.serialization` + `os.system`), so every part of the name counts.
    """
    if is_inert(found):
        return False
    parts = found.name.split(".")
    if found.module.split(".")[0] in _DANGEROUS or any(part in _DANGEROUS_NAMES for part in parts):
        return True
    return len(parts) > 1 and any(part in _DANGEROUS for part in parts)


def refuse_code(found: Pickle) -> None:
    """Refuse a pickle that would run code: a dangerous global anywhere in it, or an unknown function that it calls.

    Classes of unknown modules are let pass here (nothing is made of them): they are `foreign`.

    Raises:
        FormatError: with the reason 'needs-code' and the names.
    """
    bad = [one for one in found.globals if is_dangerous(one) or (one in found.called and not is_inert(one) and not _names_class(one))]
    if bad:
        raise FormatError(f"its pickle would run code: {listed(bad)}", reason="needs-code", advice=ADVICE)


def foreign(found: Pickle) -> list[str]:
    """List the classes of unknown modules that a pickle names."""
    return [str(one) for one in found.globals if not is_inert(one)]


def listed(names: Iterable[object], limit: int = 5) -> str:
    """Name a few things and count the rest."""
    shown = [str(one) for one in names]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")


def _names_class(found: Global) -> bool:
    """Python names classes with a capital; a callable that is not named so counts as a function."""
    return found.name.rsplit(".", 1)[-1].lstrip("_")[:1].isupper()
