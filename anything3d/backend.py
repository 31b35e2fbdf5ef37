"""A backend is one way to do a stage: which model, or which method. This says what a run has to know of it.

`caption.py`, `lift.py` and `reconstruct.py` each have a table BACKENDS: the word of the setting `<stage>.backend`, and
the Backend that it means. Nothing here loads a network.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Need = Literal["crop", "photo", "caption", "concept", "cloud"]  # what a backend may ask of an object
Config = TypeVar("Config")  # the stage's section
Verb = TypeVar("Verb")  # what the stage calls: a Captioner, a Lifter, a Reconstructor


@dataclass(frozen=True, slots=True)
class Backend(Generic[Config, Verb]):
    """What a backend needs, and how it is loaded. What no backend of a run needs is not computed."""

    weights: Callable[[Config], tuple[str, ...]]  # names of the weights that it loads; it must not read a file
    load: Callable[..., Verb]  # of the stage's section, the Place, and what resources.<stage> says of batches
    needs: tuple[Need, ...] = ("crop",)  # of every object; `caption` and `lift` are given the crop alone
    licence: str = ""  # which its own code puts on what it makes, beside those of the weights; "": none
