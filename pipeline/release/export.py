"""export: the objects of a snapshot, or some of them, in the layout of other tools.

    hf          data/<number>/*.parquet with the columns of the objects, their crops and their meshes: for the Hub
    objaverse   glbs/<folder>/<object>.glb, metadata/<folder>.json.gz, object-paths.json.gz
    lance       objects.lance with the same columns as hf; the meshes are blobs

Each export has README.md, LICENSE and export.json, which says what it was made from. The columns of the objects are
always all there, `licence` among them, except those that say where a file lies in a tar of the corpus.

One table of a shard is in memory, with the files of ROWS_AT_ONCE objects. The same command again ends an export that
was interrupted.
"""

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import groupby, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from anything3d.errors import ConfigError, SourceError
from pipeline.location import explained
from pipeline.release.card import LICENSE, README, export_readme, license_file
from pipeline.release.delta import ROOT, write_log
from pipeline.release.duplicates import DUPLICATE_OF, digest_of, duplicates_of, with_marks
from pipeline.release.licences import Use, check_use
from pipeline.release.partition import MEND, sound_table
from pipeline.release.snapshot import Snapshot, snapshot_of
from pipeline.release.view import about
from pipeline.store import Store
from schemas.arrow import objects_schema
from schemas.corpus import PLACES, span_names

ABOUT = "export.json"
COLUMNS = pa.schema([column.with_nullable(True) for column in objects_schema() if column.name not in PLACES])
BLOB = {"lance-encoding:blob": "true"}  # a column that Lance reads row by row, and not with the other columns
WITH_FILES = pa.schema(
    [*COLUMNS, pa.field("crop", pa.large_binary()), pa.field("glb", pa.large_binary(), metadata=BLOB)]
)
NEEDS = {"lance": "lance", "usdz": "pxr"}  # format -> module
ROWS_AT_ONCE = 64
FILE_BYTES = 512 << 20  # about; of a Parquet file
FILES_PER_FOLDER = 1000
OBJECTS_PER_FOLDER = 5000  # of an Objaverse folder
WRITERS = 16  # threads that write meshes
EXTRAS = {"duckdb": "where", "lance": "lance", "pxr": "usd"}  # module -> extra of this package that installs it


def export(
    corpus: str,
    form: str,
    out: str | None,
    where: str | None = None,
    number: int | None = None,
    use: Use | None = None,
) -> tuple[int, str]:
    """Write an export; the number of its objects, or of the new versions of a Delta table, and where it is.

    `where` is an SQL condition on the columns of one object. `number` is that of the snapshot; None is the newest.
    With a `use`, nothing is written unless all licences of all chosen objects allow it.

    Raises: ConfigError if the arguments do not fit, `where` is no condition, a package is missing, or something else
    lies at `out`; SourceError if there is no such snapshot, or a file of it is damaged; StorageError.
    """
    store, snapshot = snapshot_of(corpus, number)
    if form == "delta":
        if any(given is not None for given in (out, where, number, use)):
            raise ConfigError(
                "export_arguments",
                "A Delta log names the files of the corpus as they are:"
                " no --out, --where, --snapshot or --use can be given.",
            )
        with explained(corpus):
            return write_log(store)[0], f"{corpus}/{ROOT}"
    if out is None:
        raise ConfigError(
            "export_arguments", f"--format {form} needs an --out: an empty folder, or s3://bucket/prefix."
        )
    if form in NEEDS:
        extra(NEEDS[form])
    with explained(f"{corpus} or {out}"):
        marks = duplicates_of(store, snapshot.number, needed=(by_marks := DUPLICATE_OF in (where or "").lower()))
        chosen(with_marks(objects_schema().empty_table(), marks), where)  # so that a wrong condition is said at once
        if use is not None:
            check_use(use, licences_of(store, snapshot, where))
        place = Store(out)
        whole = about(store.root, snapshot)
        card = replace(whole, columns={name: said for name, said in whole.columns.items() if name not in PLACES})
        made_from = {"corpus": corpus, "snapshot": snapshot.number, "digest": snapshot.digest, "where": where}
        begin(place, {**made_from, **({"duplicates": digest_of(marks)} if by_marks else {})}, form)
        place.write(LICENSE, license_file(card))
        count = FORMS[form](place, objects_of(store, snapshot, where))
        place.write(README, export_readme(replace(card, objects=count), form, where))
    return count, out


def licences_of(store: Store, snapshot: Snapshot, where: str | None) -> Counter[str]:
    """The values of the column `licence` of the chosen objects, and how many objects have each."""
    return Counter(value for table in tables_of(store, snapshot, where) for value in table["licence"].to_pylist())


def tables_of(store: Store, snapshot: Snapshot, where: str | None) -> Iterator[pa.Table]:
    """The chosen objects of each shard. Raises: SourceError("damaged_corpus") if a table is not what was written."""
    marks = duplicates_of(store, snapshot.number)
    for partition in snapshot.partitions.values():
        yield chosen(with_marks(sound_table(store, partition.tables["objects"]), marks), where)


def begin(place: Store, made_from: Mapping[str, Any], form: str) -> None:
    """Say what the export is made from. Raises: ConfigError if something else lies here."""
    data = json.dumps({"about": "an export of anything3d", "format": form, **made_from}, indent=1).encode() + b"\n"
    there = place.some()
    if there and place.find(ABOUT) != data:
        raise ConfigError(
            "place_in_use",
            f"{place.root} is not empty, and no unfinished export of the same objects: it has"
            f" {', '.join(sorted(there)[:3])}; give an empty folder as --out",
        )
    place.write(ABOUT, data)


def chosen(table: pa.Table, where: str | None) -> pa.Table:
    """The objects that fulfil an SQL condition; all of them without one.

    Raises: ConfigError if it is no condition, or duckdb is not installed.
    """
    if where is None:
        return table
    duckdb = extra("duckdb")
    with duckdb.connect() as connection:
        connection.register("objects", table)
        try:
            found = connection.execute(f"select object_id from objects where (\n{where}\n)").fetchall()
        except duckdb.Error as error:
            raise ConfigError("export_where", f"{where!r}: {' '.join(str(error).split())[:300]}") from error
    ids = pa.array([row[0] for row in found], pa.string())
    return table.filter(pc.is_in(table["object_id"], value_set=ids))


def extra(module: str) -> Any:  # noqa: ANN401 - a module
    """A package that not every installation has. Raises: ConfigError, which says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        name = EXTRAS[module]
        raise ConfigError("missing_extra", f"{error}. Give `pip install 'anything3d[{name}]'` first.") from error


def objects_of(store: Store, snapshot: Snapshot, where: str | None) -> Iterator[pa.Table]:
    """The chosen objects, ROWS_AT_ONCE or fewer at once: WITH_FILES.

    Raises: SourceError("damaged_corpus") if a table or a mesh is not what was written.
    """
    for table in tables_of(store, snapshot, where):
        for tar in pc.unique(table["asset_tar"]).to_pylist():
            of_tar = table.filter(pc.equal(table["asset_tar"], tar))
            for start in range(0, of_tar.num_rows, ROWS_AT_ONCE):
                some = of_tar.slice(start, ROWS_AT_ONCE)
                crops, meshes = files_of(store, tar, some, "png"), files_of(store, tar, some, "glb")
                for name, glb in zip(some["object_id"].to_pylist(), meshes, strict=True):
                    if glb[:4] != b"glTF" or int.from_bytes(glb[8:12], "little") != len(glb):
                        raise _damaged(store, tar, f"at the mesh of {name}")
                columns = {column.name: _column(some, column) for column in COLUMNS}
                yield pa.table({**columns, "crop": crops, "glb": meshes}, WITH_FILES)


def _column(table: pa.Table, column: pa.Field) -> pa.Array | pa.ChunkedArray:
    """A column of a table; nulls if an older version wrote the table, which had no such column."""
    return table[column.name] if column.name in table.column_names else pa.nulls(table.num_rows, column.type)


def files_of(store: Store, tar: str, rows: pa.Table, suffix: str) -> list[bytes]:
    """The bytes of one file of each of these objects, which lie in one tar."""
    offsets, sizes = (rows[name].to_pylist() for name in span_names(suffix))
    try:
        return store.ranges(tar, offsets, sizes)
    except FileNotFoundError as error:
        raise _damaged(store, tar, "as it has gone") from error


def _damaged(store: Store, tar: str, how: str) -> SourceError:
    return SourceError("damaged_corpus", f"{store.root}/{tar} is damaged, {how}. {MEND}")


def write_hf(place: Store, objects: Iterator[pa.Table]) -> int:
    """Parquet files of about FILE_BYTES. The crop is what the library `datasets` calls an image."""
    count, files, rows = 0, 0, next(objects, None)
    while rows is not None:
        with tempfile.TemporaryFile() as file:
            schema = _hf(rows).schema
            with pq.ParquetWriter(file, schema, compression="ZSTD", write_page_index=True) as writer:
                while rows is not None and file.tell() < FILE_BYTES:
                    writer.write_table(_hf(rows).cast(schema))
                    count += rows.num_rows
                    rows = next(objects, None)
            place.write_file(f"data/{files // FILES_PER_FOLDER:03d}/{files:06d}.parquet", file)
            files += 1
    return count


def _hf(rows: pa.Table) -> pa.Table:
    """The same rows, with a crop that is an image, and with the metadata in which `datasets` looks for its features."""
    index = rows.schema.get_field_index("crop")
    paths = pa.array([f"{name}.png" for name in rows["object_id"].to_pylist()])
    crops = rows["crop"].combine_chunks().cast(pa.binary())
    rows = rows.set_column(index, "crop", pa.StructArray.from_arrays([crops, paths], ["bytes", "path"]))
    features = {
        column.name: {"_type": "Image"} if column.name == "crop" else {"_type": "Value", "dtype": HF_TYPES[column.type]}
        for column in rows.schema
    }
    return rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


HF_TYPES = {
    pa.string(): "string",
    pa.int64(): "int64",
    pa.float64(): "float64",
    pa.bool_(): "bool",
    pa.large_binary(): "large_binary",
}  # Arrow -> datasets


def write_objaverse(place: Store, objects: Iterator[pa.Table], form: str = "glb") -> int:
    """The folders of Objaverse 1.0. An object's `uid` is its id, and its `license` is the column `licence`.

    With another `form`, each mesh is written in it, and `object-paths.json.gz` names that file.
    """
    rows = (row for some in objects for row in some.to_pylist())
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(WRITERS) as threads:
        count = 0
        with gzip.open(file, "wt") as paths:
            paths.write("{")
            for folder, some in groupby(enumerate(rows), lambda item: item[0] // OBJECTS_PER_FOLDER):
                name, annotations = f"{folder // 1000:03d}-{folder % 1000:03d}", dict[str, Any]()
                of_folder = (row for _, row in some)
                while batch := list(islice(of_folder, ROWS_AT_ONCE)):
                    files = {
                        f"{form}s/{name}/{file}": data
                        for row in batch
                        for file, data in mesh_files(row["glb"], row["object_id"], form).items()
                    }
                    list(threads.map(place.write, files.keys(), files.values()))
                    annotations |= {row["object_id"]: annotation(row) for row in batch}
                    for row in batch:
                        path = f"{form}s/{name}/{row['object_id']}.{form}"
                        paths.write(f"{',' if count else ''}\n{json.dumps(row['object_id'])}: {json.dumps(path)}")
                        count += 1
                place.write(f"metadata/{name}.json.gz", gzip.compress(json.dumps(annotations).encode(), mtime=0))
            paths.write("\n}\n")
        place.write_file("object-paths.json.gz", file)
    return count


def mesh_files(glb: bytes, name: str, form: str) -> dict[str, bytes]:
    """The files of one mesh: the GLB as it is, or the same mesh in another form."""
    if form == "glb":
        return {f"{name}.glb": glb}
    from anything3d.space.formats import FORMATS

    return FORMATS[form](glb, name)


def annotation(row: Mapping[str, Any]) -> dict[str, Any]:
    """One object in Objaverse's words, and all of its columns."""
    return {
        "uid": row["object_id"],
        "name": row["caption"] or row["object_id"],
        "description": row["caption"] or "",
        "tags": [],
        "categories": [],
        "license": row["licence"],
        "vertexCount": row["vertices"],
        "faceCount": row["faces"],
        "anything3d": {name: value for name, value in row.items() if name not in ("crop", "glb")},
    }


def write_lance(place: Store, objects: Iterator[pa.Table]) -> int:
    """One dataset of Lance."""
    batches = (batch for some in objects for batch in some.to_batches())
    reader = pa.RecordBatchReader.from_batches(WITH_FILES, batches)
    mode = "overwrite" if place.some("objects.lance") else "create"
    return extra("lance").write_dataset(reader, f"{place.root}/objects.lance", mode=mode).count_rows()


FORMS: dict[str, Callable[[Store, Iterator[pa.Table]], int]] = {
    "hf": write_hf,
    "objaverse": write_objaverse,
    "lance": write_lance,
    **{form: partial(write_objaverse, form=form) for form in ("obj", "ply", "usdz")},
}
