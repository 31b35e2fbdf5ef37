"""Point-E: networks, sampler and weights (the official checkpoints load as they are)."""

from anything3d.models.pointe.diffusion import sample
from anything3d.models.pointe.loading import build, load_denoiser, load_sdf
from anything3d.models.pointe.networks import PointCloudSdf, PointDenoiser

__all__ = ["PointCloudSdf", "PointDenoiser", "build", "load_denoiser", "load_sdf", "sample"]
