"""One object of a photo in three dimensions: a plain PyTorch library after Anything-3D (Shen et al. 2023).

This is the table of contents, in the order of the method. A name is imported from its file when it is asked for first,
so that `import anything3d` loads neither torch nor the libraries of the networks.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers, which read no table
    from anything3d.backend import load_captioner as load_captioner
    from anything3d.backend import load_lifter as load_lifter
    from anything3d.backend import load_reconstructor as load_reconstructor
    from anything3d.caption import Captioned as Captioned
    from anything3d.caption import Captioner as Captioner
    from anything3d.errors import Anything3DError as Anything3DError
    from anything3d.invert import Inverted as Inverted
    from anything3d.invert import Inverter as Inverter
    from anything3d.invert import load_inverter as load_inverter
    from anything3d.lift import Lifted as Lifted
    from anything3d.lift import Lifter as Lifter
    from anything3d.mesh import extract as extract
    from anything3d.method import Method as Method
    from anything3d.method import MethodConfig as MethodConfig
    from anything3d.method import Pace as Pace
    from anything3d.method import lift_photos as lift_photos
    from anything3d.method import load_method as load_method
    from anything3d.models.weights import Place as Place
    from anything3d.object3d import Object3D as Object3D
    from anything3d.object3d import Photo as Photo
    from anything3d.quality.looks import Reconstruction as Reconstruction
    from anything3d.reconstruct import Evidence as Evidence
    from anything3d.reconstruct import Reconstructed as Reconstructed
    from anything3d.reconstruct import Reconstructor as Reconstructor
    from anything3d.score import Scored as Scored
    from anything3d.score import Scorer as Scorer
    from anything3d.score import load_scorer as load_scorer
    from anything3d.seed import generators as generators
    from anything3d.segment import Segmented as Segmented
    from anything3d.segment import Segmenter as Segmenter
    from anything3d.segment import load_segmenter as load_segmenter
    from anything3d.settings.caption import CaptionConfig as CaptionConfig
    from anything3d.settings.invert import InvertConfig as InvertConfig
    from anything3d.settings.lift import LiftConfig as LiftConfig
    from anything3d.settings.mesh import MeshConfig as MeshConfig
    from anything3d.settings.reconstruct import ReconstructConfig as ReconstructConfig
    from anything3d.settings.score import ScoreConfig as ScoreConfig
    from anything3d.settings.segment import SegmentConfig as SegmentConfig
    from anything3d.single import lift_image as lift_image
    from anything3d.space.camera import Camera as Camera
    from anything3d.space.cloud import Cloud as Cloud
    from anything3d.space.field import Field as Field
    from anything3d.space.mesh import Mesh as Mesh

CONTENTS = {
    # The whole method
    "anything3d.single": ("lift_image",),
    "anything3d.method": (
        "lift_photos",
        "load_method",
        "Method",
        "MethodConfig",
        "Pace",
    ),
    "anything3d.object3d": ("Photo", "Object3D"),
    # The seven verbs: the settings of each, how it is loaded, what is called, and what it says of one object
    "anything3d.backend": ("load_captioner", "load_lifter", "load_reconstructor"),
    "anything3d.settings.segment": ("SegmentConfig",),
    "anything3d.segment": (
        "load_segmenter",
        "Segmenter",
        "Segmented",
    ),
    "anything3d.settings.caption": ("CaptionConfig",),
    "anything3d.caption": (
        "Captioner",
        "Captioned",
    ),
    "anything3d.settings.invert": ("InvertConfig",),
    "anything3d.invert": (
        "load_inverter",
        "Inverter",
        "Inverted",
    ),
    "anything3d.settings.lift": ("LiftConfig",),
    "anything3d.lift": (
        "Lifter",
        "Lifted",
    ),
    "anything3d.settings.reconstruct": ("ReconstructConfig",),
    "anything3d.reconstruct": (
        "Reconstructor",
        "Evidence",
        "Reconstructed",
    ),
    "anything3d.settings.mesh": ("MeshConfig",),
    "anything3d.mesh": ("extract",),
    "anything3d.settings.score": ("ScoreConfig",),
    "anything3d.score": (
        "load_scorer",
        "Scorer",
        "Reconstruction",
        "Scored",
    ),
    # Values that travel between the verbs, and what all of them share
    "anything3d.space.camera": ("Camera",),
    "anything3d.space.cloud": ("Cloud",),
    "anything3d.space.field": ("Field",),
    "anything3d.space.mesh": ("Mesh",),
    "anything3d.models.weights": ("Place",),
    "anything3d.seed": ("generators",),
    "anything3d.errors": ("Anything3DError",),
}  # file -> its public names
HOME = {name: file for file, names in CONTENTS.items() for name in names}

__all__ = [*HOME]


def __getattr__(name: str) -> object:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOME[name]), name)


def __dir__() -> list[str]:
    return [*HOME]
