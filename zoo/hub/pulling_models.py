"""Pulling one model from the Hub: its weights into the store, and what its file, its card and its configuration say into the catalog."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, RecordError
from weightspace.remote.downloading import downloaded
from weightspace.remote.file import RemoteFile
from weightspace.remote.hub import HubAddress, files_of, repository
from weightspace.remote.opening import expect_no_zoo, of_files, weights_among
from weightspace.zoo import reading, store
from weightspace.zoo.hub.linking import link
from weightspace.zoo.hub.looking import CONFIGS, description, read_configs
from weightspace.zoo.hub.pulling import is_there, no_zoo
from weightspace.zoo.hub.scratch import incoming
from weightspace.zoo.records import Description
from weightspace.zoo.write import write_records, write_tags

if TYPE_CHECKING:
    from weightspace.zoo.zoo import Zoo


def pull_model(zoo: "Zoo", source: str) -> str:
    """Bring a model of the Hub into the zoo's store, with what its card says; returns its id.

    Recipe, parents, and whatever a trained metanet, a generator or a signature is built from come with it; a download that broke off goes
    on where it was.

    Args:
        zoo: that it comes into.
        source: `hf:org/name[@revision][/file]`.

    Raises:
        FormatError: it is not there, holds no safetensors, is a data set that is no zoo, or is not what its hash says.
    """
    address = HubAddress.parse(f"hf:{source.removeprefix('hf:')}")
    found, chosen = _chosen(address)
    beside = files_of(replace(address, path=""), found)
    configs = {key: config for key, (config, _) in read_configs(chosen, beside, CONFIGS).items()}
    with incoming(zoo.catalog.home) as folder:
        # Whole, since only a whole file can be held against its hash.
        local = [downloaded(one, folder, f"{one.version}.safetensors") for one in chosen]
        opened = of_files(str(address), local)
        if not opened.info:
            raise RecordError(f"{address}: holds no tensors; nothing to pull")
        said = description(found, chosen, opened, configs)
        kind = "adapter" if "adapter_config" in configs else opened.kind
        return _kept(zoo, replace(opened, kind=kind), address, said)


def _chosen(address: HubAddress) -> tuple[Any, list[RemoteFile]]:
    """What the Hub says of a repository, and the files of its weights; a data set that was taken for a zoo is called what it is."""
    data = replace(address, kind="dataset", path="")
    try:
        found = repository(address)
    except FormatError as error:
        if address.kind == "model" and error.reason == "missing" and not address.path and is_there(data):
            raise no_zoo(data) from None
        raise
    expect_no_zoo(address, found)
    try:
        return found, weights_among(str(address), files_of(address, found))
    except FormatError as error:
        if address.kind == "dataset" and error.reason == "unsupported":
            raise no_zoo(data) from None
        raise


def _kept(zoo: "Zoo", opened: Checkpoint, address: HubAddress, said: Description) -> str:
    [rows] = reading.measured([(opened, tuple(opened.info))])
    read = reading.finished(opened, rows)
    zoo.create()
    tags = {"hub": str(replace(address, revision=None)), **said.tags}
    record = store.kept(zoo.catalog.home, opened, read, address.repo, replace(said, tags=tags))
    with zoo.catalog.writing() as connection:
        there = connection.execute(
            "select model_id from files join models using (model_id) where id = ? and path = ?", [record.id, record.place.path]
        ).fetchall()
        if there:  # it was made or pulled here before; what is known of its file stays
            write_tags(connection, [(there[0][0], key, value) for key, value in tags.items()])
        else:
            write_records(connection, [record])
    link(zoo.catalog)
    return read.id.hex()


__all__ = ["pull_model"]
