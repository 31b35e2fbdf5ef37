"""The reference camera in numbers, and where it sees points. camera.py says the axes. This file imports no torch."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class ReferenceCamera:
    """Camera on a sphere around the canonical object; `intrinsics` (fx, fy, cx, cy) are fractions of the crop side."""

    azimuth_deg: float
    elevation_deg: float
    distance: float  # canonical units
    intrinsics: tuple[float, float, float, float]

    @property
    def eye(self) -> Float[np.ndarray, "3"]:
        """Where the camera stands."""
        return self.distance * self._axes[2]

    def project(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
        """(u, v) of points in front of the camera: fractions of the crop's side from its top left corner."""
        right, up, backward = ((points - self.eye) @ self._axes.T).T
        fx, fy, cx, cy = self.intrinsics
        return np.stack([cx - fx * right / backward, cy + fy * up / backward], axis=1)

    def shifted(self, points: Float[np.ndarray, "N 3"], by: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
        """These points, moved across the view so that the crop sees them farther to the right and farther down.

        `by` is x, y in fractions of the crop's side. The depth of the points stays as it is.
        """
        right, up, backward = self._axes
        depth = ((self.eye - points) @ backward)[:, None]
        fx, fy = self.intrinsics[:2]
        return points + depth * (by[:, :1] / fx * right - by[:, 1:] / fy * up)

    @property
    def _axes(self) -> Float[np.ndarray, "3 3"]:
        """The camera's right, up and backward, as `camera.orbit` has them."""
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        level = np.array([math.sin(azimuth), 0.0, math.cos(azimuth)])
        backward = math.cos(elevation) * level + np.array([0.0, math.sin(elevation), 0.0])
        right = np.array([level[2], 0.0, -level[0]])
        return np.stack([right, np.cross(backward, right), backward])
