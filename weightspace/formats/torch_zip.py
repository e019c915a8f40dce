"""torch.save's zip files (.pt, .pth, .bin, .ckpt, whatever they are called): a pickle beside one stored member a storage."""

from pathlib import Path

from weightspace.checkpoint import Checkpoint
from weightspace.containers import pickle_safety, pickles, torch_tree
from weightspace.containers.archive import Archive, first_name
from weightspace.containers.pickles import Pickle
from weightspace.containers.torch_archive import ArchiveStorages, root_of
from weightspace.containers.torch_tensors import Tensors
from weightspace.errors import FormatError
from weightspace.formats import checkpoint_format, torchscript
from weightspace.storage import SourceFile


def sniff(path: Path, head: bytes) -> bool:
    """A zip file with `<name>/data.pkl` in it: the first member where torch.save wrote it."""
    name = first_name(head)
    if name is None or "/" not in name or path.suffix == ".distcp":  # the latter is many such files in one: see distcp
        return False
    pickled = f"{name.split('/')[0]}/data.pkl"
    try:
        return name == pickled or pickled in Archive(SourceFile.at(path))
    except FormatError:
        return False


@checkpoint_format("torch", sniff=sniff)
def open_torch_zip(path: Path) -> Checkpoint:
    """Read the pickle of a torch zip file statically; storages stay where they lie in the archive."""
    archive = Archive(SourceFile.at(path))
    if torchscript.is_script(archive):
        return torchscript.read(archive)
    found, tensors = read(archive)
    return torch_tree.checkpoint(found, tensors, format="torch", path=path, files=(path,))


def read(archive: Archive) -> tuple[Pickle, Tensors]:
    """Read the pickle of an archive, and know where its tensors lie.

    Raises:
        FormatError: damaged, or a pickle that would run code.
    """
    root = root_of(archive)
    found = pickles.read(archive.read(f"{root}data.pkl", pickles.MAX_BYTES))
    pickle_safety.refuse_code(found)
    return found, Tensors(ArchiveStorages(archive, root))
