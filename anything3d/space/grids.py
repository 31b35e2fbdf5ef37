"""The grids of one object's field as arrays, and the file in which they are stored. This file imports no torch."""

import json
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from anything3d.errors import InputError
from anything3d.settings.reconstruct import FieldConfig

FORMAT = "anything3d-field-1"


@dataclass(frozen=True, slots=True)
class Grids:
    """The raw nodes of one object, indexed [channel, z, y, x]. `field.py` says what they mean."""

    density: Float[np.ndarray, "1 R R R"]
    color: Float[np.ndarray, "C R R R"]  # C is 3, or that of latents
    config: FieldConfig
    latent: bool = False  # whether colours are the denoiser's latents, and not RGB

    def sampled(self, grid: Float[np.ndarray, "D R R R"], points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N D"]:
        """The raw numbers of one of the grids, interpolated; outside the cube, those of the nearest face."""
        from scipy.ndimage import map_coordinates

        nodes = (points[:, ::-1].T / self.config.half + 1) * ((grid.shape[-1] - 1) / 2)  # z, y, x
        return np.stack([map_coordinates(channel, nodes, order=1, mode="nearest") for channel in grid], axis=1)

    def activated(self, raw: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """The density of raw numbers."""
        return np.float32(self.config.density_scale) * np.logaddexp(0, raw + np.float32(self.config.density_bias))

    def painted(self, raw: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """The colours of raw numbers."""
        from scipy.special import expit

        return raw if self.latent else expit(raw)

    def to_bytes(self) -> bytes:
        """As safetensors; raw grids are rounded to float16 (2^-11 relative, 0.1 % of a density)."""
        from safetensors.numpy import save

        header = json.dumps({"format": FORMAT, "latent": self.latent, **asdict(self.config)}, sort_keys=True)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, as it does in torch
            grids = {name: np.ascontiguousarray(getattr(self, name), np.float16) for name in ("density", "color")}
        return save(grids, {"field": header})  # one key only: safetensors writes several in random order

    @classmethod
    def from_bytes(cls, data: bytes) -> "Grids":
        """The grids of `to_bytes`, in float32. Raises: InputError("bad_field") if `data` is none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            grids = load(data)
            length = int.from_bytes(data[:8], "little")
            settings = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["field"])
            if (version := settings.pop("format")) != FORMAT:
                raise InputError("bad_field", f"format is {version!r}, this library reads {FORMAT!r}")
            latent = settings.pop("latent")
            density, color = (grids[name].astype(np.float32) for name in ("density", "color"))
            return cls(density, color, FieldConfig(**settings), latent)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError("bad_field", f"{len(data)} bytes are not a field of format {FORMAT}: {error}") from error
