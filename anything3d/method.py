"""The method of Anything-3D: seven verbs, one after the other, on a batch of photos.

`lift_photos` is the whole method. Every verb takes a batch and gives one outcome for each object: a value, or the error
that stopped the object. An object that has stopped stays in the batch as its error, and the later verbs skip it. The
stages of the pipeline call the same verbs with the same random numbers, so that they give the same values.

Source: Anything-3D, Shen et al. 2023 (arXiv 2304.10261).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from anything3d import backend
from anything3d.backend import (
    BATCH_CLOUDS,
    CAPTIONERS,
    LIFTERS,
    RECONSTRUCTORS,
    load_captioner,
    load_lifter,
    load_reconstructor,
)
from anything3d.caption import Captioned, Captioner
from anything3d.errors import Anything3DError, InputError, NumericsError, Skipped
from anything3d.invert import Inverted, Inverter, load_inverter
from anything3d.lift import Lifted, Lifter
from anything3d.mesh import surface
from anything3d.models import concept
from anything3d.models.weights import Place
from anything3d.object3d import Object, Object3D, Photo, crops_of, unseen_of
from anything3d.quality.looks import Reconstruction
from anything3d.reconstruct import (
    Evidence,
    FinishedMesh,
    Reconstructed,
    Reconstructor,
)
from anything3d.score import Scored, Scorer, load_scorer
from anything3d.seed import generators
from anything3d.segment import Segmented, Segmenter, load_segmenter, name_of
from anything3d.settings.caption import CaptionConfig
from anything3d.settings.invert import InvertConfig
from anything3d.settings.lift import LiftConfig
from anything3d.settings.mesh import MeshConfig
from anything3d.settings.reconstruct import CHECKPOINT_EVERY, MAX_POINTS, ReconstructConfig
from anything3d.settings.score import ScoreConfig
from anything3d.settings.segment import SegmentConfig
from anything3d.space import cloud
from anything3d.space.field import Field
from anything3d.space.mesh import Mesh, from_glb, to_glb
from anything3d.space.reference import stack

Outcome = TypeVar("Outcome")
Outcomes = Mapping[str, Outcome | Anything3DError]  # object id -> what a verb says of the object, or why it stopped
Say = Callable[[str], None]  # hears of every verb before it runs, and of the checkpoints of long ones
OF_ONE_OBJECT = (InputError, Skipped, NumericsError)  # the errors that say nothing of other objects


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """What the verbs do. The defaults load the packaged mini networks, which know the mini world only."""

    seed: int = 0  # Start of all randomness.
    segment: SegmentConfig = field(default_factory=lambda: SegmentConfig(source="sam-grid"))
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    invert: InvertConfig = field(default_factory=InvertConfig)
    lift: LiftConfig = field(default_factory=LiftConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights that `load_method` loads, each once."""
        names = [*CAPTIONERS[self.caption.backend].weights(self.caption)]
        names += [*LIFTERS[self.lift.backend].weights(self.lift)]
        names += [*RECONSTRUCTORS[self.reconstruct.backend].weights(self.reconstruct)]
        names += [self.invert.weights, self.score.clip_weights, self.score.dino_weights]
        if self.segment.source != "annotations":
            names.append(self.segment.weights)
        return tuple(sorted(set(names)))


@dataclass(frozen=True, slots=True)
class Pace:
    """What changes memory and time, and no result."""

    images_per_batch: int = 4  # photos, or parts of one, that SAM encodes at once
    prompts_per_batch: int = 32  # prompts of one photo that SAM decodes at once
    batch_clouds: int = BATCH_CLOUDS  # drafts of clouds in one call of Point-E
    max_points: int = MAX_POINTS  # of rays that are rendered at once
    checkpoint_every: int = CHECKPOINT_EVERY  # steps of `reconstruct` after which progress is told


def lift_photos(photos: Sequence[Photo], method: "Method") -> Outcomes[Object3D]:
    """Every wanted object of the photos by its id, or the error that stopped it.

    All objects share the calls of the networks, but no object changes another one. The photos' names must differ. A
    photo without any object has one error, under its own name.

    Raises: WeightsError if a network gives NaN or Inf for every object.
    """
    objects = method.segment(photos)
    captioned = each(method.caption, objects)
    inverted = each(method.invert, objects, captioned)
    lifted = each(method.lift, objects)
    reconstructed = each(method.reconstruct, objects, captioned, inverted, lifted)
    meshes = each(method.mesh, objects, lifted, reconstructed)
    scored = each(method.score, objects, lifted, reconstructed, meshes)
    return each(collect, objects, captioned, inverted, lifted, reconstructed, meshes, scored)


def each(verb: Callable[..., Sequence[Outcome | Anything3DError]], *columns: Outcomes[Any]) -> Outcomes[Outcome]:
    """What the verb says of every object that has a value in all columns; of every other one, its first error.

    The verb is called once, with the ids of these objects and a list of values for each column.
    """
    rows = {name: [column[name] for column in columns] for name in columns[0]}
    errors = {
        name: value for name, row in rows.items() for value in reversed(row) if isinstance(value, Anything3DError)
    }
    sound = [name for name in rows if name not in errors]
    outcomes = verb(sound, *([column[name] for name in sound] for column in columns)) if sound else []
    made = dict(zip(sound, outcomes, strict=True))
    return {name: made[name] if name in made else errors[name] for name in rows}


@dataclass(frozen=True, slots=True)
class Method:
    """The loaded networks, and one function for each verb, which takes ids and a list for every value that it needs."""

    config: MethodConfig
    segmenter: Segmenter
    captioner: Captioner
    inverter: Inverter
    lifter: Lifter
    reconstructor: Reconstructor
    scorer: Scorer
    checkpoint_every: int
    say: Say = lambda line: None

    def segment(self, photos: Sequence[Photo]) -> Outcomes[Object]:
        """The wanted objects of every photo."""
        self.say("segment")
        return {name: outcome for photo in photos for name, outcome in self._objects(photo).items()}

    def caption(self, ids: Sequence[str], objects: Sequence[Object]) -> Sequence[Captioned | NumericsError]:
        """One sentence on every crop."""
        self.say("caption")
        return self.captioner(crops_of(objects), self._randomness("caption", ids))

    def invert(
        self, ids: Sequence[str], objects: Sequence[Object], captions: Sequence[Captioned]
    ) -> Sequence[Inverted | NumericsError]:
        """The concept of every object, which begins at its caption."""
        self.say("invert")
        texts, keywords = [one.text for one in captions], [one.keyword for one in captions]
        return self.inverter(crops_of(objects), texts, self._randomness("invert", ids), keywords)

    def lift(self, ids: Sequence[str], objects: Sequence[Object]) -> Sequence[Lifted | Anything3DError]:
        """The cloud of every crop, and the camera from which the crop sees it."""
        self.say("lift")
        return self.lifter(crops_of(objects), self._randomness("lift", ids), unseen_of(objects))

    def reconstruct(
        self,
        ids: Sequence[str],
        objects: Sequence[Object],
        captions: Sequence[Captioned],
        concepts: Sequence[Inverted],
        clouds: Sequence[Lifted],
    ) -> Sequence[Reconstructed | FinishedMesh | Anything3DError]:
        """The field or the mesh of every object. One whose field is no object is tried again with a second seed."""
        self.say("reconstruct")
        evidence = Evidence(
            crops=crops_of(objects),
            concept=concept.join([inverted.concept for inverted in concepts]),
            cloud=cloud.join([lifted.cloud for lifted in clouds]),
            camera=stack([lifted.reference for lifted in clouds]),
            captions=[caption.text for caption in captions],
            photos=[one.photo.pixels for one in objects],
            positions=[one.position for one in objects],
            unseen=unseen_of(objects),
        )
        first, again = (self._randomness(name, ids) for name in ("reconstruct", "reconstruct/again"))
        count, total = itertools.count(1), -(-self.config.reconstruct.steps // self.checkpoint_every)

        def save(state: bytes) -> None:
            del state  # a photo is lifted in one go
            self.say(f"reconstruct, checkpoint {next(count)} of {total}")

        return self.reconstructor(evidence, first, again, save=save)

    def mesh(
        self,
        ids: Sequence[str],
        objects: Sequence[Object],
        clouds: Sequence[Lifted],
        shapes: Sequence[Reconstructed | FinishedMesh],
    ) -> Sequence[Mesh | NumericsError]:
        """The surface of every field, or the backend's own mesh."""
        del ids
        self.say("mesh")
        return [
            surface(
                made.shape.grids(0) if isinstance(made.shape, Field) else made.shape,
                self.config.mesh,
                one.sight(made.reference or lifted.reference),
            )
            for one, lifted, made in zip(objects, clouds, shapes, strict=True)
        ]

    def score(
        self,
        ids: Sequence[str],
        objects: Sequence[Object],
        clouds: Sequence[Lifted],
        shapes: Sequence[Reconstructed | FinishedMesh],
        meshes: Sequence[Mesh],
    ) -> Sequence[Scored | NumericsError]:
        """The scores of every object against its own photo."""
        self.say("score")
        rows = zip(crops_of(objects), unseen_of(objects), clouds, shapes, meshes, strict=True)
        made = [
            Reconstruction(
                crop,
                hidden,
                stack([reconstructed.reference or lifted.reference]),
                lifted.cloud,
                reconstructed.shape if isinstance(reconstructed.shape, Field) else None,
                from_glb(to_glb(mesh)),
            )
            for crop, hidden, lifted, reconstructed, mesh in rows
        ]
        return self.scorer(made, [None] * len(ids), self._randomness("score", ids))

    def _objects(self, photo: Photo) -> dict[str, Object | Anything3DError]:
        """The wanted objects of one photo by their ids; an error is under the id of its object, or the photo's name."""
        try:
            match photo.wanted:
                case "all":
                    outcomes = self.segmenter([photo.pixels], [photo.annotations])[0]
                case "most prominent":
                    outcomes = [self.segmenter.most_prominent(photo.pixels)]
                case prompt:
                    outcomes = [self.segmenter.at(photo.pixels, prompt)]
        except OF_ONE_OBJECT as error:
            return {photo.name: error}
        if not outcomes:
            return {photo.name: Skipped("no_mask", f"{photo.name} has no mask")}
        objects: dict[str, Object | Anything3DError] = {}
        for index, one in enumerate(outcomes):
            name = one.mask.name if isinstance(one, Segmented) else name_of(self.config.segment.source, index)
            objects[f"{photo.name}-{name}"] = Object(photo, one) if isinstance(one, Segmented) else one
        return objects

    def _randomness(self, verb: str, ids: Sequence[str]) -> list[torch.Generator]:
        return generators(self.config.seed, verb, ids)


def collect(ids: Sequence[str], objects: Sequence[Object], *outcomes: Sequence[Any]) -> list[Object3D]:
    """What the verbs say, object by object."""
    rows = zip(ids, objects, *outcomes, strict=True)
    return [Object3D(name, one.photo, one.segmented, *rest) for name, one, *rest in rows]


def load_method(config: MethodConfig, place: Place, pace: Pace = Pace()) -> Method:
    """All networks of the method, ready for use.

    Raises: WeightsError if weights are missing or damaged; ConfigError if settings and networks do not fit.
    """
    return Method(
        config,
        replace(
            load_segmenter(config.segment, place),
            images_per_batch=pace.images_per_batch,
            prompts_per_batch=pace.prompts_per_batch,
        ),
        load_captioner(config.caption, place),
        load_inverter(config.invert, place),
        load_lifter(config.lift, place, pace.batch_clouds),
        load_reconstructor(config.reconstruct, place, backend.Pace(pace.max_points, pace.checkpoint_every)),
        load_scorer(config.score, place),
        pace.checkpoint_every,
    )
