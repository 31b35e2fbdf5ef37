"""The settings of `invert`."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from anything3d.errors import ConfigError
from anything3d.settings import Share, check_ranges


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The second phase; the numbers are the authors', but for `steps`."""

    # Steps of AdamW in which low-rank changes of the networks are trained; 0 trains none. The authors take 500.
    steps: Annotated[int, Interval(ge=0, le=10**6)] = 0
    rank: Annotated[int, Interval(ge=1, le=256)] = 1  # Rank of the changes.
    share: Share = 0.3  # Share of the trained change that is used later on.
    samples: Annotated[int, Interval(ge=1, le=1024)] = 1  # Noises for each object and step.
    lr_unet: Annotated[float, Interval(ge=0, le=1)] = 4e-4  # Learning rate of the UNet's changes.
    lr_text: Annotated[float, Interval(ge=0, le=1)] = 4e-5  # Learning rate of the text encoder's changes.
    lr_words: Annotated[float, Interval(ge=0, le=1)] = 1e-4  # Learning rate of the embeddings, which go on.
    # Share of the steps in which the rates rise from 0. Then they fall to 0. Both are linear.
    warmup: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    weight_decay: Annotated[float, Interval(ge=0, le=1)] = 1e-3  # Weight decay of the changes.
    clip: Annotated[float, Interval(gt=0, le=10**6)] = 1.0  # Largest norm of an object's gradient.
    # Latest timestep of the noises, as a share of all timesteps. The earliest is invert.t_min.
    t_max: Annotated[float, Interval(gt=0, le=1)] = 0.8

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, slots=True)
class InvertConfig:
    """How long and how fast the embedding moves."""

    weights: str = "diffusion"  # The weights of the denoiser.
    steps: Annotated[int, Interval(ge=0, le=10**6)] = 60  # Steps of Adam. The authors take 125.
    # Learning rate of Adam at the start. The authors' 0.002 is for embeddings of norm 0.4.
    lr: Annotated[float, Interval(gt=0, le=1)] = 0.02
    # Learning rate at the end / at the start, linear between. The authors take 0.
    lr_end: Annotated[float, Interval(ge=0, le=10)] = 1.0
    # Norm to which each step pulls the embeddings of the words. The authors take 0.4; 0 pulls nowhere.
    norm: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    samples: Annotated[int, Interval(ge=1, le=1024)] = 4  # Noises for each object and step.
    t_min: Share = 0.1  # Earliest timestep of the noises, as a share of all timesteps.
    t_max: Share = 1.0  # Latest timestep of the noises, as a share of all timesteps.
    # Noises for each object on which the loss is measured. They are never fitted.
    held_out: Annotated[int, Interval(ge=1, le=1024)] = 16
    # The second phase, which changes the networks for each object.
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.t_min >= self.t_max:
            raise ConfigError("setting", f"invert.t_min is {self.t_min}; must be below invert.t_max, {self.t_max}")
        if self.lora.steps and self.t_min >= self.lora.t_max:
            raise ConfigError(
                "setting", f"invert.t_min is {self.t_min}; must be below invert.lora.t_max, {self.lora.t_max}"
            )
