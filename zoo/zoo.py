"""A zoo: a folder of checkpoints with its catalog, as one object."""

import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from weightspace.checkpoint import Checkpoint, checkpoint_of
from weightspace.errors import CatalogError, FormatError, RecordError
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.remote import is_remote, open_remote
from weightspace.remote.whole import brought
from weightspace.zoo import mapping, query, reading, store, tensor_mapping
from weightspace.zoo.cache import TensorCache
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.claims import read_claims, write_claims
from weightspace.zoo.diff import TensorDiff, diff
from weightspace.zoo.edges import Edge, write_edges
from weightspace.zoo.embeddings import embeddings as stored_embeddings
from weightspace.zoo.embeddings import similar as nearest
from weightspace.zoo.embeddings import write_embeddings
from weightspace.zoo.forgetting import forget
from weightspace.zoo.ingest import Progress, Report, ingest
from weightspace.zoo.look import Look, is_checkpoint_path, look
from weightspace.zoo.metrics import Metric, metrics_of, number, whole
from weightspace.zoo.records import Description, ModelRecord
from weightspace.zoo.runs.importing import ImportReport, import_runs
from weightspace.zoo.runs.run import Run
from weightspace.zoo.served import ServedCatalog, is_served
from weightspace.zoo.whereabouts import whereabouts
from weightspace.zoo.write import write_metrics, write_records, write_runs, write_tags

if TYPE_CHECKING:
    import torch

    from weightspace.spec import SymmetrySpec
    from weightspace.zoo.store.garbage import Garbage
    from weightspace.zoo.store.running import Tended

HOUSE = ".weightspace"


@dataclass(frozen=True)
class Added:
    """A checkpoint made here, to be added to a zoo with what is known of it.

    Attributes:
        tensors: a state dict or a Checkpoint.
        name: its name in the catalog.
        recipe: how it was made, everything needed to make it again.
        parents: models it was made from, as `Zoo.open` takes them.
        run: the training it is a checkpoint of.
        step: step within the run.
        metrics: numbers by name; nested mappings give splits (`{"test": {"accuracy": .9}}`).
        tags: labels.
    """

    tensors: "Checkpoint | Mapping[str, torch.Tensor]"
    name: str
    recipe: Mapping[str, Any] | None = None
    parents: Sequence[str] = ()
    run: Run | None = None
    step: int | None = None
    metrics: Mapping[str, Any] | None = None
    tags: Mapping[str, str] | None = None


class Zoo:
    """A folder of checkpoints and the catalog in its `.weightspace` subfolder; created at the first write.

    Every method opens the catalog for as short as it can, so that other processes may read and write in between.

    Example:
        >>> import tempfile, torch
        >>> zoo = Zoo(tempfile.mkdtemp())
        >>> model = zoo.add({"w": torch.ones(2, 2)}, name="ones", metrics={"test": {"accuracy": 0.5}})
        >>> zoo.sql("select name, num_params, test_accuracy from model_table").to_pylist()
        [{'name': 'ones', 'num_params': 4, 'test_accuracy': 0.5}]
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Name a zoo.

        Args:
            folder: the folder that holds `.weightspace`. None means $WEIGHTSPACE_ZOO, else the working folder or its
                nearest parent that has one, as git does, else the working folder. `quack:host[:port][/folder]` names a catalog
                that `weightspace serve` serves; `folder` is where its files are found here, where that is another place than there.
        """
        named = folder if folder is not None else os.environ.get("WEIGHTSPACE_ZOO")
        self.catalog = ServedCatalog.at(str(named)) if is_served(named) else Catalog(_find(folder) / HOUSE)
        self.folder = self.catalog.home.parent

    def __repr__(self) -> str:
        if not self.catalog.exists():
            return f"<Zoo {self.folder} (does not exist yet)>"
        with self.catalog.reading() as connection:
            [(models, params)] = connection.execute("select count(*), coalesce(sum(num_params), 0)::bigint from models").fetchall()
        return f"<Zoo {self.folder}: {models:,} models, {params:,} parameters>"

    def _repr_html_(self) -> str:
        """What it holds, and the models that were catalogued last, for notebooks."""
        from weightspace import html

        if not self.catalog.exists():
            return html.page(f"Zoo {self.folder}", html.facts({"": "does not exist yet; ingest or add models"}))
        with self.catalog.reading() as connection:
            [(models, params, size)] = connection.execute(
                "select count(*), coalesce(sum(num_params), 0)::bigint, coalesce(sum(num_bytes), 0)::bigint from models"
            ).fetchall()
        last = self.models(order_by="model_id desc", limit=html.MOST_ROWS)
        dull = {"model_id", "id", "name", "path", "architecture_id", "num_bytes", "catalogued", "is_finite"}
        told = [name for name in last.column_names if name not in dull and len(set(map(str, last[name].to_pylist()))) > 1]
        listed = html.rows(last.to_pylist(), models, columns=["name", *told][: html.MOST_COLUMNS // 2 + 1])
        return html.page(f"Zoo {self.folder}", html.facts({"models": models, "parameters": params, "bytes": size}), listed)

    def create(self, *, store_at: str | None = None) -> None:
        """Make the catalog now, if there is none.

        Args:
            store_at: an address that fsspec knows, such as `s3://bucket/prefix`, where the zoo's store is to be; in its own folder if left out.

        Raises:
            CatalogError: the zoo keeps a store elsewhere already, or the address cannot be used.
        """
        self.catalog.create()
        if store_at is not None:
            store.keep_at(self.catalog, store_at)

    def ingest(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        jobs: int | None = None,
        backend: str = "local",
        tags: Mapping[str, str] | None = None,
        copy: bool = False,
        prefix: str = "",
        progress: Callable[[Progress], None] | None = None,
    ) -> Report:
        """Catalogue every checkpoint under the paths; see `weightspace.zoo.ingest.ingest`."""
        roots = [paths] if isinstance(paths, str | Path) else list(paths)
        return ingest(self.catalog, roots, jobs=jobs, backend=backend, tags=tags, copy=copy, prefix=prefix, progress=progress)

    def import_runs(self, source: str | Path, *, reader: str | None = None) -> ImportReport:
        """Read the runs of an experiment tracker or a model zoo, with their checkpoints; see `weightspace.zoo.runs.importing.import_runs`."""
        return import_runs(self.catalog, source, reader=reader)

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hold the catalog open for many questions in a row; writers wait meanwhile."""
        with self.catalog.reading() as connection:
            yield connection

    def sql(self, statement: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Run one read-only SQL statement over the catalog.

        Args:
            statement: DuckDB SQL over the tables and views of `Zoo.tables`.
            parameters: values for its `?`.

        Returns:
            An Arrow table; `.to_pandas()`, `polars.from_arrow(...)` and `.to_pylist()` are one call away.
        """
        with self.catalog.reading() as connection:
            return query.arrow(connection, statement, parameters)

    def tables(self) -> pa.Table:
        """The catalog's own documentation: tables, views, columns, types and meanings."""
        with self.catalog.reading() as connection:
            return query.tables(connection)

    def models(self, where: str | None = None, *, order_by: str | None = None, limit: int | None = None) -> pa.Table:
        """One row a model, its metrics as columns.

        Args:
            where: SQL condition over the columns, such as `num_params < 1e6 and test_accuracy > .9`.
            order_by: SQL, such as `test_accuracy desc`; by name if left out.
            limit: rows at most.
        """
        with self.catalog.reading() as connection:
            return query.models(connection, where, order_by, limit)

    def page(self, model: str) -> query.ModelPage:
        """Everything the catalog knows of one model, named by catalog name, id prefix or path."""
        with self.catalog.reading() as connection:
            return query.page(connection, query.resolve(connection, model, self.folder))

    def look(self, model: str) -> Look:
        """A model's page and its weights, by path, name or id prefix; a file that is not catalogued is read."""
        return look(self, model)

    def duplicates(self, *, tensors: bool = False) -> pa.Table:
        """Models that lie in several places, or tensors that stand in several models, with the bytes they cost."""
        with self.catalog.reading() as connection:
            return query.duplicates(connection, tensors=tensors)

    def runs(self, where: str | None = None, *, order_by: str | None = None, limit: int | None = None) -> pa.Table:
        """One row a run, with the number of its checkpoints and their last step; arguments as in `models`."""
        with self.catalog.reading() as connection:
            return query.runs(connection, where, order_by, limit)

    def files(self, where: str | None = None, *, order_by: str | None = None, limit: int | None = None) -> pa.Table:
        """One row a checkpoint file or folder, with its model and run; arguments as in `models`."""
        with self.catalog.reading() as connection:
            return query.files(connection, where, order_by, limit)

    def quarantined(self, where: str | None = None, *, order_by: str | None = None, limit: int | None = None) -> pa.Table:
        """What was refused and why, with advice; models with NaN or infinities too; arguments as in `models`."""
        with self.catalog.reading() as connection:
            return query.quarantined(connection, where, order_by, limit)

    def open(self, model: str) -> Checkpoint:
        """Open a catalogued model, by name, id prefix or path.

        Raises:
            UnknownNameError: no such model.
            FormatError: none of its files is there any more, or it is damaged.
        """
        with self.catalog.reading() as connection:
            model_id = query.resolve(connection, model, self.folder)
            found = whereabouts(connection, [model_id])[model_id]
        return found.open(self.catalog.home, model)

    def diff(self, a: str, b: str) -> Iterator[TensorDiff]:
        """Compare two models tensor by tensor; each is a path, a catalog name or an id prefix."""
        return diff(self.checkpoint(a), self.checkpoint(b))

    def checkpoint(self, model: str | Path) -> Checkpoint:
        """Open a model wherever it is: a path, an address elsewhere, or a name or id of this zoo."""
        if isinstance(model, str) and is_remote(model):
            return open_remote(model)
        if isinstance(model, Path) or is_checkpoint_path(model) or not self.catalog.exists():
            return open_checkpoint(model)
        return self.open(model)

    def spec(self, model: str | Path | Checkpoint) -> "SymmetrySpec":
        """The symmetry of a model's architecture: as it was set, else by the names of its tensors; see `weightspace.zoo.specs`.

        Raises:
            SymmetryError: none was set, and no known architecture fits.
        """
        from weightspace.zoo import specs  # brings YAML, which nothing else here needs

        return specs.chosen(self.catalog, model if isinstance(model, Checkpoint) else self.checkpoint(model))

    def set_spec(self, model: str | Path, spec: "SymmetrySpec") -> None:
        """Keep a spec for the architecture of a model, in place of any other.

        Raises:
            SymmetryError, ShapeMismatchError: it is of another architecture.
            CatalogError: the model is not in the catalog.
        """
        from weightspace.zoo import specs

        specs.choose(self.catalog, self.checkpoint(model), spec)

    def export(self, model: str, path: str | Path) -> Path:
        """Write a model as safetensors; the same model gives the same bytes.

        Raises:
            FormatError: a file of the store does not hold what its name says; nothing is written then.
        """
        opened = self.checkpoint(model)
        if not store.is_as_named(self.catalog.home, opened):
            raise FormatError(
                f"{opened.path}: holds other weights than its name says",
                reason="corrupt",
                advice="mend it with 'weightspace check --repair'",
            )
        with brought(opened) as checkpoint:
            return save(checkpoint, path, {"format": "pt"})

    def record(
        self, model: str, *, metrics: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None, step: int | None = None
    ) -> None:
        """Record metrics and tags of a model; a metric of the same name, split and step is replaced.

        Args:
            model: catalog name, id prefix or path.
            metrics: numbers by name; a prefix (`test_accuracy`) or a nested mapping (`{"test": {"accuracy": .9}}`) gives the split.
            tags: labels with their values.
            step: the step that the metrics belong to.

        Raises:
            RecordError: a value is not a finite number.
        """
        read = _metrics(metrics, step)
        with self.catalog.writing() as connection:
            model_id = query.resolve(connection, model, self.folder)
            write_metrics(connection, [(model_id, None, metric, "user") for metric in read])
            write_tags(connection, [(model_id, str(key), str(value)) for key, value in (tags or {}).items()])

    def untag(self, model: str, keys: Sequence[str]) -> int:
        """Remove labels from a model; returns how many it had."""
        with self.catalog.writing() as connection:
            model_id = query.resolve(connection, model, self.folder)
            gone = [
                connection.execute("delete from tags where model_id = ? and key = ? returning key", [model_id, key]).fetchall()
                for key in keys
            ]
        return sum(map(len, gone))

    def add(self, tensors: "Checkpoint | Mapping[str, torch.Tensor]", name: str, **known: Any) -> str:
        """Put a model that was made here into the store and the catalog; keywords as in `Added`.

        Returns:
            The model's id.
        """
        return self.add_many([Added(tensors, name, **known)])[0]

    def add_many(self, models: Sequence[Added]) -> list[str]:
        """Put models into the store, then catalogue all of them in one transaction.

        Returns:
            Their ids, in order.
        """
        self.create()
        records = self._stored(models)
        with self.catalog.writing() as connection:
            numbers = write_records(connection, records)
            runs = write_runs(connection, [model.run for model in models if model.run])
            told: list[tuple[int | None, int | None, Metric, str]] = []
            parent_of = cache(lambda parent: query.resolve(connection, parent, self.folder))
            for model, record in zip(models, records, strict=True):
                number_of_model = numbers[record.place.path]
                run_id = runs[model.run.key] if model.run else None
                told += [(number_of_model, run_id, metric, "user") for metric in _metrics(model.metrics, None)]
                kind = str((model.recipe or {}).get("kind", "made"))
                for parent in dict.fromkeys(map(parent_of, model.parents)):
                    if parent == number_of_model:
                        continue  # what was made of it is equal to it
                    edge = [parent, number_of_model, kind]  # known already where the same is made again
                    connection.execute("delete from edges where parent_id = ? and child_id = ? and kind = ? and evidence = 'recipe'", edge)
                    connection.execute("insert into edges values (?, ?, ?, 'recipe', 1)", edge)
            write_metrics(connection, told)
        return [record.id.hex() for record in records]

    def forget(self, models: Sequence[str]) -> int:
        """Drop models and all that was recorded of them from the catalog; returns how many.

        Files stay where they lie, and an ingest of their folder brings them back; copies in the store become garbage, which
        `collect_garbage` removes.

        Raises:
            UnknownNameError: a model is not in the catalog; nothing is forgotten then.
        """
        with self.catalog.writing() as connection:
            numbers = {query.resolve(connection, model, self.folder) for model in models}
            forget(connection, sorted(numbers))
        return len(numbers)

    def compact(
        self,
        where: str | None = None,
        *,
        dry_run: bool = False,
        jobs: int | None = None,
        backend: str = "local",
        progress: Callable[[Progress], None] | None = None,
    ) -> "Tended":
        """Keep the store small: each tensor once, fine-tunes as what differs from their parents; see `weightspace.zoo.store.compacting`."""
        from weightspace.zoo.store.compacting import compact

        return compact(self.catalog, where, dry_run=dry_run, jobs=jobs, progress=progress)

    def restore_store(
        self, where: str | None = None, *, jobs: int | None = None, progress: Callable[[Progress], None] | None = None
    ) -> "Tended":
        """Write compact models of the store as plain files again, byte for byte what they were."""
        from weightspace.zoo.store.restoring import restore

        return restore(self.catalog, where, jobs=jobs, progress=progress)

    def store_families(self) -> list[dict[str, Any]]:
        """What the store holds, family by family; see `weightspace.zoo.store.listing`."""
        from weightspace.zoo.store.listing import families

        return families(self.catalog)

    def collect_garbage(self, *, dry_run: bool = False, spare: float = 3600.0) -> "list[Garbage]":
        """Remove what nobody needs from the zoo's house; see `weightspace.zoo.store.garbage`."""
        from weightspace.zoo.store.garbage import collect

        return collect(self.catalog, dry_run=dry_run, spare=spare)

    def map(
        self,
        function: Callable[[Checkpoint], Mapping[str, Any]],
        where: str | None = None,
        *,
        measure: str,
        version: str = "1",
        parameters: Mapping[str, Any] | None = None,
        jobs: int | None = None,
        backend: str = "local",
        progress: Callable[[mapping.Progress], None] | None = None,
        skip: mapping.Skip | None = None,
    ) -> pa.Table:
        """Apply a function to every model of a query, and keep what it says in the table `measurements`.

        What is known under the same measure, version and parameters is not computed again; results are written every few seconds,
        so that a run may be ended at any time and goes on where it stopped.

        Args:
            function: takes a Checkpoint, returns numbers or text by key; importable by name where there are several jobs.
            where: SQL condition on models, as in `models`.
            measure: name to file the results under.
            version: of the function: raise it when the function changes.
            parameters: what the function was given besides the model, as JSON can hold it.
            jobs: processes; by default this one alone, or all that a cluster has.
            backend: where they are: `local`, or a `ray` or `dask` cluster; see `weightspace.parallel.run`.
            progress: called after each model.
            skip: called with the name of a model that cannot be opened or that the function refuses, and with why; the model is left out and
                asked again next time. Without it, such a model ends the run.

        Returns:
            One row a model of the query, its keys as columns; what is not finite is NULL.

        Raises:
            RecordError: the function could not do a model, or gave something that is no mapping to numbers; what was done before is kept.
        """
        return mapping.apply_to(
            self,
            function,
            mapping.Measure(measure, version, parameters or {}),
            arity=1,
            where=where,
            jobs=jobs,
            backend=backend,
            progress=progress,
            skip=skip,
        )

    def map_tensors(
        self,
        function: tensor_mapping.Function,
        where: str | None = None,
        *,
        measures: Sequence[mapping.Measure],
        choose: tensor_mapping.Choose,
        jobs: int | None = None,
        backend: str = "local",
        progress: Callable[[mapping.Progress], None] | None = None,
        skip: mapping.Skip | None = None,
    ) -> pa.Table:
        """Take measures of single tensors of every model of a query, and keep them in `measurements` by the tensor's content.

        A content that stands in many models, or was measured before, is not measured again. Of each model the function is
        called with those of its tensors that lack something, and with the measures that they lack.

        Args:
            function: takes a Checkpoint, names of its tensors and names of measures; returns numbers or text by tensor, measure and key
                (the key '' for a measure of one number). Importable by name where there are several jobs.
            where: SQL condition on models, as in `models`.
            measures: name, version and parameters of each.
            choose: which tensors of a checkpoint to measure, from its header: names, or a mapping from names to variants. A variant is text that
                tells results of one content apart, for instance how the tensor is laid out; it is kept among the parameters.
            jobs: processes; by default this one alone, or all that a cluster has.
            backend: where they are: `local`, or a `ray` or `dask` cluster; see `weightspace.parallel.run`.
            progress: called after each model, with numbers of tensors.
            skip: called with the name of a model that cannot be opened, or of which nothing can be chosen, and with why; it is left out.
                Without it, such a model ends the run.

        Returns:
            One row a tensor of a model: `model`, `tensor`, and a column a measure, or a measure and key (`alpha.low`).

        Raises:
            RecordError: the function could not do a model, or gave no mapping to numbers; what was done before is kept.
        """
        return tensor_mapping.apply_to_tensors(
            self, function, measures, choose, where=where, jobs=jobs, backend=backend, progress=progress, skip=skip
        )

    def map_pairs(
        self,
        function: Callable[[Checkpoint, Checkpoint], Mapping[str, Any]],
        where: str | None = None,
        *,
        measure: str,
        version: str = "1",
        ordered: bool = False,
        parameters: Mapping[str, Any] | None = None,
        jobs: int | None = None,
        backend: str = "local",
        progress: Callable[[mapping.Progress], None] | None = None,
        skip: mapping.Skip | None = None,
    ) -> pa.Table:
        """Apply a function to all pairs of models of a query, and keep what it says in `pair_measurements`.

        Arguments, caching and errors are those of `map`; text cannot be kept of a pair, and `skip` is given both names.

        Args:
            function: takes two Checkpoints.
            where: see `map`.
            measure: see `map`.
            version: see `map`.
            ordered: take each pair in both orders, for functions that have a direction; otherwise once, that first which was catalogued first.
            parameters: see `map`.
            jobs: see `map`.
            backend: see `map`.
            progress: called after each pair.
            skip: see `map`.

        Returns:
            One row a pair: `a`, `b` and the keys as columns.
        """
        return mapping.apply_to(
            self,
            function,
            mapping.Measure(measure, version, parameters or {}),
            arity=2,
            ordered=ordered,
            where=where,
            jobs=jobs,
            backend=backend,
            progress=progress,
            skip=skip,
        )

    def record_pair(
        self,
        a: Checkpoint,
        b: Checkpoint,
        values: Mapping[str, float],
        *,
        measure: str,
        version: str = "1",
        parameters: Mapping[str, Any] | None = None,
    ) -> bool:
        """Keep what was found of two models in `pair_measurements`, in place of what the same measure and parameters said before.

        Returns:
            Whether it was kept: both models have to be in the catalog.
        """
        return mapping.record(self, (a, b), mapping.Measure(measure, version, parameters or {}), values)

    def record_measure(
        self,
        model: Checkpoint,
        values: Mapping[str, float | int | str | None],
        *,
        measure: str,
        version: str = "1",
        parameters: Mapping[str, Any] | None = None,
    ) -> bool:
        """Keep what was found of a model in `measurements`, in place of what the same measure and parameters said before.

        Returns:
            Whether it was kept: the model has to be in the catalog.
        """
        return mapping.record(self, (model,), mapping.Measure(measure, version, parameters or {}), values)

    def record_edges(self, edges: Sequence[Edge], *, among: Sequence[str] = ()) -> int:
        """Keep who was found to come from whom, in place of all that was inferred before between the same models.

        What a recipe states stays as it is, and is not repeated.

        Args:
            edges: of catalogued models.
            among: further models that were looked at: what was inferred between these goes, too.

        Returns:
            How many were kept.

        Raises:
            UnknownNameError: a model is not in the catalog.
            RecordError: a confidence is no probability.
        """
        with self.catalog.writing() as connection:
            return write_edges(connection, edges, among, self.folder)

    def record_embeddings(self, metanet_id: str, version: str, vectors: Mapping[str, Any]) -> int:
        """Keep the vectors that a metanet gives to models, in place of those that they had of it in this version.

        Args:
            metanet_id: name or id of the metanet.
            version: its version; embeddings of one version have one length.
            vectors: one by model (catalog name, id prefix or path): numbers, an array or a tensor of float32's range.

        Returns:
            How many models they are of.

        Raises:
            UnknownNameError: a model is not in the catalog.
            RecordError: a vector is none, has another length, or is not finite; nothing is kept then.
        """
        with self.catalog.writing() as connection:
            return write_embeddings(connection, metanet_id, version, vectors, self.folder)

    def embeddings(self, metanet: str | None = None, *, version: str | None = None) -> pa.Table:
        """The embeddings of a metanet: `model` and `vector`, in the order in which the models were catalogued.

        Args:
            metanet: its name or id; the only one if left out.
            version: the one that was recorded last if left out.

        Raises:
            CatalogError: there are none yet, or of several metanets.
            UnknownNameError: there are none of this one.
        """
        with self.catalog.reading() as connection:
            return stored_embeddings(connection, metanet, version)

    def similar(
        self, model_or_vector: Any, metanet: str | None = None, limit: int = 10, where: str | None = None, *, version: str | None = None
    ) -> pa.Table:
        """The models whose embeddings have the largest cosine with that of a model, or with a vector; exact, every one is looked at.

        An embedding of zeros has no direction and is similar to nothing.

        Args:
            model_or_vector: catalog name, id prefix or path of a model, which is not among its own neighbours; or a vector.
            metanet: see `embeddings`.
            limit: models at most.
            where: SQL condition on models, as in `models`.
            version: see `embeddings`.

        Returns:
            `name`, `similarity` (-1 to 1, falling), then the metrics of the zoo's models.

        Raises:
            CatalogError: no embeddings yet, or none of this model.
            RecordError: a vector of another length, or of zeros.
        """
        with self.catalog.reading() as connection:
            return nearest(connection, model_or_vector, self.folder, metanet=metanet, version=version, limit=limit, where=where)

    @property
    def cache(self) -> "MutableMapping[str, Mapping[str, torch.Tensor]]":
        """Small sets of tensors by key, such as decompositions: kept as files in the zoo, or in memory where there is no zoo yet."""
        return TensorCache(self.catalog.home / "cache") if self.catalog.home.is_dir() else {}

    def record_claims(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep findings of published claims that were tried, in place of those of an earlier try; see the table `claims`."""
        with self.catalog.writing() as connection:
            write_claims(connection, rows)

    def claims(self) -> pa.Table:
        """Findings of published claims that were tried, by claim and in their order."""
        with self.catalog.reading() as connection:
            return read_claims(connection)

    def record_runs(self, runs: Sequence[Run]) -> None:
        """Put runs that left no checkpoint into the catalog, with their metrics; a run of the same key is refreshed."""
        self.create()
        with self.catalog.writing() as connection:
            numbers = write_runs(connection, runs)
            write_metrics(connection, [(None, numbers[run.key], metric, run.source) for run in runs for metric in run.metrics])

    def _stored(self, models: Sequence[Added]) -> list[ModelRecord]:
        checkpoints = [checkpoint_of(model.tensors) for model in models]
        for model, checkpoint in zip(models, checkpoints, strict=True):
            if not checkpoint.info:
                raise RecordError(f"model '{model.name}' holds no tensors; nothing to add")
        rows = reading.measured([(checkpoint, tuple(checkpoint.info)) for checkpoint in checkpoints])
        return store.kept_many(
            self.catalog.home,
            [
                (
                    checkpoint,
                    reading.finished(checkpoint, own),
                    model.name,
                    Description(run=model.run, step=model.step, tags=dict(model.tags or {})),
                    model.recipe,
                )
                for model, checkpoint, own in zip(models, checkpoints, rows, strict=True)
            ],
        )


def _metrics(metrics: Mapping[str, Any] | None, step: int | None) -> tuple[Metric, ...]:
    """Read a user's metrics strictly: what is not a finite number is an error, not a gap."""
    pending: list[tuple[str, Any]] = list((metrics or {}).items())
    if step is not None and whole(step) is None:
        raise RecordError(f"step is {step!r}, expected a whole number of at most 62 bits")
    for name, value in pending:
        if isinstance(value, Mapping):
            pending.extend((f"{name}.{key}", one) for key, one in value.items())
        elif number(value) is None:
            raise RecordError(f"metric '{name}' is {value!r}, expected a finite number; record text as a tag")
    return metrics_of(dict(metrics or {}), step)


def _find(folder: str | Path | None) -> Path:
    named = folder if folder is not None else os.environ.get("WEIGHTSPACE_ZOO")
    if named:
        place = Path(os.path.abspath(named))  # noqa: PTH100 - not resolve(): links stay as the user named them
        if place.exists() and not place.is_dir():
            raise CatalogError(f"{place}: is a file, expected the folder of a zoo")
        return place.parent if place.name == HOUSE else place
    here = Path.cwd()
    return next((parent for parent in (here, *here.parents) if (parent / HOUSE).is_dir()), here)
