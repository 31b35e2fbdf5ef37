"""The checkpoint of a reconstruction: its whole inner state between two steps, as bytes.

A run that resumes from a checkpoint continues as if it had never stopped. On a CPU with the same number of threads, the
results are equal bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from anything3d.errors import InputError
from anything3d.settings.reconstruct import FieldConfig
from anything3d.space.field import Field

Optimizer = torch.optim.Adam | torch.optim.Adamax


@dataclass(frozen=True, slots=True)
class State:
    """B objects after `step` steps, on the CPU, in full precision; moments are the optimiser's first and second."""

    step: int
    density_grid: Float[Tensor, "B 1 R R R"]
    color_grid: Float[Tensor, "B C R R R"]
    density_moments: Float[Tensor, "2 B 1 R R R"]
    color_moments: Float[Tensor, "2 B C R R R"]
    randomness: UInt8[Tensor, "B N"]  # state of each object's generator
    losses: Float[Tensor, "B L"]  # running means of the unweighted losses, in the order of losses.LossTerms
    dropped: Int[Tensor, "B"]  # predictions of the denoiser that were not finite

    @classmethod
    def begin(cls, field: Field, generators: Sequence[torch.Generator], n_losses: int) -> "State":
        """Before the first step."""
        density, color = field.density_grid.detach().cpu(), field.color_grid.detach().cpu()
        moments = (torch.zeros(2, *density.shape), torch.zeros(2, *color.shape))
        losses, dropped = torch.zeros(len(field), n_losses), torch.zeros(len(field), dtype=torch.int64)
        return cls(0, density, color, *moments, _randomness(generators), losses, dropped)

    @classmethod
    def capture(
        cls,
        step: int,
        field: Field,
        optimizer: Optimizer,
        generators: Sequence[torch.Generator],
        losses: Float[Tensor, "B L"],
        dropped: Int[Tensor, "B"],
    ) -> "State":
        """A copy of everything that the next step depends on. A GPU is waited for once."""
        grids = (field.density_grid.detach(), field.color_grid.detach())
        names = _moments(optimizer)
        moments = [
            torch.stack([optimizer.state[grid][name] for name in names])
            for grid in (field.density_grid, field.color_grid)
        ]
        tensors = (*grids, *moments, _randomness(generators), losses, dropped)
        copies = [tensor.to("cpu", copy=True, non_blocking=True) for tensor in tensors]  # into pinned memory
        if losses.is_cuda:
            torch.cuda.current_stream(losses.device).synchronize()
        return cls(step, *copies)

    def field(self, config: FieldConfig, latent: bool = False) -> Field:
        """The field in this state."""
        return Field(self.density_grid.clone(), self.color_grid.clone(), config, latent)

    def restore(self, field: Field, optimizer: Optimizer, generators: Sequence[torch.Generator]) -> None:
        """Put moments and randomness back into a fresh optimiser of `field`, and into `generators`."""
        for grid, moments in ((field.density_grid, self.density_moments), (field.color_grid, self.color_moments)):
            named = zip(_moments(optimizer), moments.to(grid.device, copy=True), strict=True)
            where = grid.device if optimizer.defaults.get("fused") else "cpu"
            optimizer.state[grid] = {"step": torch.tensor(float(self.step), device=where), **dict(named)}
        for generator, row in zip(generators, self.randomness, strict=True):
            generator.set_state(row.clone())

    def to_bytes(self) -> bytes:
        """As safetensors."""
        from safetensors.torch import save

        tensors = {name: getattr(self, name).contiguous() for name in TENSORS}
        return save({**tensors, "step": torch.tensor(self.step)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "State":
        """The state of `to_bytes`. Raises: InputError("bad_checkpoint") if `data` is not one."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(data)
            return cls(int(tensors.pop("step")), **tensors)
        except (SafetensorError, KeyError, TypeError) as error:
            message = f"{len(data)} bytes are not a state with {', '.join(TENSORS)}: {error}; drop it and start again"
            raise InputError("bad_checkpoint", message) from error


def _moments(optimizer: Optimizer) -> tuple[str, str]:
    """What torch calls them."""
    return "exp_avg", "exp_inf" if isinstance(optimizer, torch.optim.Adamax) else "exp_avg_sq"


def _randomness(generators: Sequence[torch.Generator]) -> UInt8[Tensor, "B N"]:
    return torch.stack([generator.get_state() for generator in generators])


TENSORS = tuple(entry.name for entry in fields(State) if entry.name != "step")
