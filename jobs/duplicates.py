"""`anything3d duplicates` marks the objects of a corpus that look nearly like an earlier one. It needs no network."""

from typing import Annotated

import typer

from jobs.command import CorpusArgument, errors_as_one_line

MIN_COSINE = 0.99  # nobody has measured on photographs which limit is best: rather too few marks than too many


def duplicates(
    corpus: CorpusArgument,
    min_cosine: Annotated[
        float, typer.Option("--min-cosine", min=-1, max=1, help="From which cosine of two crops one is a duplicate.")
    ] = MIN_COSINE,
    device: Annotated[str, typer.Option(help="cpu or cuda; where the crops are compared.")] = "cpu",
) -> None:
    """Mark objects that look nearly like an earlier one.

    Compares the crops of all objects of the newest snapshot by their DINOv2 embeddings, which the stage score has kept.
    Writes CORPUS/duplicates/<number>.parquet: object_id, duplicate_of, cosine. Nothing is deleted. `export --where
    'duplicate_of is null'` leaves the marked objects out. After a new snapshot, give the command again.
    """
    with errors_as_one_line():
        from anything3d.models.device import check_device, cores, use_threads
        from pipeline.duplicates import mark
        from pipeline.input import source

        check_device(device)
        use_threads(cores())
        place = source.absolute(corpus)
        found = mark(place, min_cosine, device)
        print(f"{found.duplicates} of {found.objects} objects look nearly like an earlier one: {place}/{found.table}")
        if found.without:
            print(
                f"{found.without} objects were not compared: an older version has scored them. Run their shards again."
            )
        if found.networks > 1:
            print(
                f"The objects were scored with {found.networks} sets of networks. Only those of one set were compared."
            )
