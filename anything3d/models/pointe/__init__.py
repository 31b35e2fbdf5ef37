"""Point-E: its networks, its sampler and its weights. The official checkpoints load as they are."""

from anything3d.models.pointe.diffusion import sample
from anything3d.models.pointe.loading import build, check_clip, load_pair, load_point_denoiser
from anything3d.models.pointe.networks import PointDenoiser
from anything3d.settings.lift import SamplerConfig

__all__ = [
    "PointDenoiser",
    "SamplerConfig",
    "build",
    "check_clip",
    "load_pair",
    "load_point_denoiser",
    "sample",
]
