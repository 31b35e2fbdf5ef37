"""Reconstruction: a field for each object, distilled from the denoiser under the depth of the object's cloud.

The denoiser knows the object's concept and sees the depth of its cloud. In each step it says how random views of the
field should change. What else a step does is the method's: `distil/sds.py` starts from the cloud and compares with the
photo, `distil/sjc.py` does what the authors' code does. This file runs the steps, and asks the judge at the end.
All objects of a batch share every network call, and the result of one does not depend on the others.

A field that looks less like its photo than the surface of its own cloud is not kept. The surface is kept instead.

Source: Anything-3D (arXiv 2304.10261) and 3DFuse, Seo et al. 2023, for distillation under a projected cloud.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from anything3d.distil.evidence import Evidence, FinishedMesh, Reconstructed, Reconstructor
from anything3d.distil.guide import prepare
from anything3d.distil.judge import Judge
from anything3d.distil.losses import LossTerms
from anything3d.distil.sds import Sds
from anything3d.distil.sjc import Sjc
from anything3d.distil.state import State
from anything3d.distil.step import Step
from anything3d.errors import InputError, NumericsError
from anything3d.models.clip import Clip, load_clip
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.encoder import Encode, load_encoder
from anything3d.models.weights import Place
from anything3d.settings.reconstruct import CHECKPOINT_EVERY, MAX_POINTS, ReconstructConfig
from anything3d.space.field import Field

__all__ = [
    "Distiller",
    "Evidence",
    "FinishedMesh",
    "Reconstructed",
    "Reconstructor",
    "load_distiller",
]

MEMORY = 20  # steps over which losses are averaged
SEEDLESS = ("denoiser_not_finite", "clip_not_finite")  # reasons that another seed does not change


class Distiller:
    """Runs the distillation; holds the networks and nothing of the objects. Without a CLIP every field is kept.

    `encode` is what `config.sds.encoder` names (`load_encoder`). Without it, the denoiser's own encoder does all.
    """

    def __init__(
        self,
        config: ReconstructConfig,
        denoiser: Denoiser,
        clip: Clip | None,
        max_points: int = MAX_POINTS,
        checkpoint_every: int = CHECKPOINT_EVERY,
        encode: Encode | None = None,
    ) -> None:
        self.config = config
        self.denoiser = denoiser
        self.clip = clip
        self.max_points = max_points  # as `render` has it
        self.checkpoint_every = checkpoint_every  # steps
        self.method = _method(Step(config, denoiser, max_points), encode or denoiser.encode)

    def __call__(
        self,
        evidence: Evidence,
        generators: Sequence[torch.Generator],
        again: Sequence[torch.Generator],
        saved: bytes | None = None,
        save: Callable[[bytes], None] = lambda state: None,
        at: Callable[[int, int], None] = lambda step, steps: None,
    ) -> list[Reconstructed | FinishedMesh | NumericsError]:
        """What becomes of each object. One whose field is no object is tried a second time, from another seed.

        `generators` and `again` are one per object, for the first attempt and for the second. The first attempt begins
        with the state `saved`, if there is one, and gives its state to `save` every `checkpoint_every` steps and at the
        end. `save` is called in another thread, one state after the other. The second attempt saves nothing. `at` is
        told every step of either attempt, and the number of its steps.

        Raises: InputError("bad_checkpoint") if `saved` does not `fit`; WeightsError as `check_network`.
        """
        surface = evidence.surface(self.config.field, self.denoiser.device) if self._reads_surface else None
        with ThreadPoolExecutor(1) as writer:  # the next steps do not wait until a state is stored
            written = writer.submit(lambda: None)
            for state in self.run(evidence, generators, saved, self.checkpoint_every, surface, at):
                written.result()  # at most one is on its way, and what `save` raises ends the call
                written = writer.submit(lambda kept: save(kept.to_bytes()), state)
            written.result()
        outcomes: list[Reconstructed | FinishedMesh | NumericsError] = [*self.finish(evidence, state, surface)]
        failed = [
            b
            for b, outcome in enumerate(outcomes)
            if isinstance(outcome, NumericsError) and outcome.reason not in SEEDLESS
        ]
        if failed:
            some = evidence.rows(torch.tensor(failed))
            *_, last = self.run(some, [again[b] for b in failed], checkpoint_every=self.config.steps, at=at)
            for b, outcome in zip(failed, self.finish(some, last), strict=True):
                outcomes[b] = _second(outcome)
        return outcomes

    @property
    def _reads_surface(self) -> bool:
        """Whether fields begin as the surfaces of their clouds, or are compared with them."""
        return self.config.backend == "sds" or self.clip is not None

    def run(
        self,
        evidence: Evidence,
        generators: Sequence[torch.Generator],
        state: bytes | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        surface: Field | None = None,
        at: Callable[[int, int], None] = lambda step, steps: None,
    ) -> Iterator[State]:
        """Yield the state every `checkpoint_every` steps and at the end; go on from `state` if there is one.

        `generators` (one per object) are moved on, or set to where `state` left them. `surface` has the surfaces of the
        clouds, if somebody has made them. `at` is told every step.

        Raises: InputError("bad_checkpoint") if `state` does not `fit`.
        """
        config, method, device = self.config, self.method, self.denoiser.device
        guide = prepare(evidence, config, self.denoiser, method.size)
        if state is None:
            start = State.begin(method.first_field(evidence, generators, surface), generators, len(LossTerms._fields))
        else:
            start = self.fit(state, len(evidence))
        field, running, dropped = method.field(start).to(device), start.losses.to(device), start.dropped.to(device)
        optimizer = method.optimizer(field)
        start.restore(field, optimizer, generators)
        if start.step == config.steps:
            yield start
        for step in range(start.step, config.steps):
            terms, lost = method.update(guide, field, optimizer, step / config.steps, generators)
            running = running + (terms - running) / min(step + 1, MEMORY)
            dropped = dropped + lost
            at(step + 1, config.steps)
            if (step + 1) % checkpoint_every == 0 or step + 1 == config.steps:
                yield State.capture(step + 1, field, optimizer, generators, running, dropped)

    def fit(self, state: bytes, n_objects: int) -> State:
        """The state of `State.to_bytes`, from which a run of so many objects can go on.

        Raises: InputError("bad_checkpoint") if it is of another layout, batch, grid or number of steps.
        """
        return _check(State.from_bytes(state), n_objects, self.config)

    @torch.no_grad()
    def finish(
        self, evidence: Evidence, state: State, surface: Field | None = None
    ) -> list[Reconstructed | NumericsError]:
        """What the last state has made of each object, as `Judge` sees it, or why that is no object.

        `surface` has the surfaces of the clouds, if somebody has made them.

        Raises: WeightsError as `check_network`.
        """
        field = self.method.in_rgb(self.method.field(state).to(self.denoiser.device))
        judge = Judge(self.config, self.denoiser, self.clip, self.method.size, self.max_points)
        return judge(evidence, field, state, surface)


def _method(shared: Step, encode: Encode) -> Sds | Sjc:
    return Sjc(shared) if shared.config.backend == "sjc" else Sds(shared, encode)


def _second(outcome: Reconstructed | NumericsError) -> Reconstructed | NumericsError:
    """The outcome of a second attempt, which says that it is one."""
    if isinstance(outcome, NumericsError):
        return NumericsError(outcome.reason, f"twice, with two seeds; {outcome.message}")
    return dataclasses.replace(outcome, attempts=2)


def load_distiller(
    config: ReconstructConfig, place: Place, max_points: int = MAX_POINTS, checkpoint_every: int = CHECKPOINT_EVERY
) -> Distiller:
    """A distiller with the denoiser `config.weights`, what `config.sds.encoder` names, and a CLIP to judge fields.

    Raises: WeightsError if one of them is missing or broken, or if they do not fit each other.
    """
    clip = load_clip(config.clip_weights, place) if config.judges else None
    denoiser = load_denoiser(config.weights, place)
    encode = load_encoder(config.sds, denoiser, place)
    return Distiller(config, denoiser, clip, max_points, checkpoint_every, encode)


def _check(state: State, n_objects: int, config: ReconstructConfig) -> State:
    grid = (n_objects, 1, *(config.field.resolution,) * 3)
    per_object = (tuple(state.losses.shape), tuple(state.dropped.shape))
    expected = ((n_objects, len(LossTerms._fields)), (n_objects,))
    if state.density_grid.shape != grid or per_object != expected or state.step > config.steps:
        raise InputError(
            "bad_checkpoint",
            f"step {state.step} of grids {tuple(state.density_grid.shape)} does not lead to step {config.steps} of "
            f"{grid}; drop it and start again",
        )
    return state
