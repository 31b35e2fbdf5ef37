"""python -m tests.bench.sequential SHARD OUT: the method as one script, object by object, without the pipeline.

It takes the photos of an SA-1B shard in order, and calls every verb for one object at a time with the settings of the
preset `mini`. It writes the GLB and the scores of every object.
"""

import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

from anything3d.errors import Anything3DError
from anything3d.method import each, load_method
from anything3d.models.device import cores, use_threads
from anything3d.models.weights import Place
from anything3d.object3d import Photo
from anything3d.photo.annotated import AnnotatedPhoto, read_annotated
from anything3d.space.mesh import to_glb
from jobs.command import read_settings
from pipeline.photo import method_config, pace


def main(shard, out):
    use_threads(cores())
    settings = read_settings("mini", None, None)
    config = replace(method_config(settings), segment=settings.segment)  # masks are the shard's own
    method = load_method(config, Place(), pace(settings))
    out.mkdir(parents=True)
    for photo in photos(shard, settings.segment.limits):
        for name, found in method.segment([photo]).items():
            if isinstance(found, Anything3DError):
                continue
            one = {name: found}
            captioned = each(method.caption, one)
            inverted = each(method.invert, one, captioned)
            lifted = each(method.lift, one)
            made = each(method.reconstruct, one, captioned, inverted, lifted)
            meshes = each(method.mesh, made)
            scored = each(method.score, one, lifted, made, meshes)
            if not isinstance(scored[name], Anything3DError):
                (out / f"{name}.glb").write_bytes(to_glb(meshes[name]))
                numbers = {"caption": captioned[name].text, "reference_psnr_db": scored[name].reference_psnr_db}
                (out / f"{name}.json").write_text(json.dumps(numbers))


def photos(shard, limits):
    with tarfile.open(shard) as tar:
        data = {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}
    for file in data:
        name, dot, kind = file.partition(".")
        if kind != "jpg":
            continue
        photo = read_annotated(data[file], data[f"{name}{dot}json"], name, limits)
        assert isinstance(photo, AnnotatedPhoto), photo
        yield Photo(name, photo.image, "all", photo.entries)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
