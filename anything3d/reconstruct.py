"""Reconstruction: a field per object, distilled from the denoiser under the cloud's depth and held to the photo.

Each step asks the denoiser, which knows the object's concept and sees the cloud's sparse depth, how random views of the
field should change (score distillation), and the photo how the reference view should. Batch first: all objects share
every network call, none feels the others.

A field that looks less like its photo than the surface of its own cloud does is not kept: the surface is.

Source: Anything-3D (arXiv 2304.10261) and 3DFuse, Seo et al. 2023, for distillation under a projected cloud; Magic123,
Qian et al. 2023, for the reference losses; Points-to-3D, Yu et al. 2023, for the cloud as initial field and guide.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anything3d import seed
from anything3d.distil import losses
from anything3d.distil.latents import to_rgb
from anything3d.distil.losses import LossConfig, LossTerms
from anything3d.distil.sds import SdsConfig, sample_timesteps, sds_gradient
from anything3d.distil.state import Optimizer, State
from anything3d.distil.views import ViewConfig, Views, sample_views
from anything3d.errors import ConfigError, InputError, NumericsError
from anything3d.models.adapter import Adapter
from anything3d.models.clip import Clip, load_clip
from anything3d.models.diffusion import Concept, Denoiser, load_denoiser
from anything3d.models.finite import check_network
from anything3d.models.weights import Place
from anything3d.quality.likeness import likeness
from anything3d.space.camera import Camera
from anything3d.space.cloud import Cloud
from anything3d.space.depth import condition, splat
from anything3d.space.field import Field, FieldConfig
from anything3d.space.render import RenderConfig, Rendering, composite, render

RIM = 0.05  # of the image side
MEMORY = 20  # steps over which losses are averaged


Kept = Literal["field", "cloud"]  # what was distilled, or the surface of the cloud


@dataclass(frozen=True, slots=True)
class ReconstructConfig:
    """Effort, rates and limits; the parts have their own."""

    weights: str = "diffusion"  # the denoiser's
    steps: int = 160
    render_size: int = 64  # px; resized to the denoiser's image size where that differs
    coarse_until: float = 0.5  # share of the steps in which views are half as large; threestudio's zero123 in 3 sizes
    start: Literal["cloud", "fog"] = "cloud"  # the first field; 3DFuse begins in a fog
    optimizer: Literal["adam", "adamax"] = "adam"  # 3DFuse adamax
    lr_density: float = 0.2  # at the start; raw units per step; 3DFuse 0.05 all along
    lr_color: float = 0.1
    lr_decay: float = 0.1  # rates at the end / at the start, exponential between
    jitter: bool = True  # shift the samples of each ray at random, against banding
    disc: float = 0.9  # radius of a cloud's discs * sqrt(points), of the image side
    background: tuple[float, float] = (1.0, 1.0)  # greys (or latents) behind the denoiser's views, drawn for each
    min_opacity: float = 0.3  # mean inside the photo's mask, seen from the reference camera; less is an empty field
    max_fog: float = 0.3  # mean opacity outside that mask, but for what may be hidden; more is fog
    clip_weights: str = "clip"  # judges fields beside the surfaces of their clouds
    max_fall: float = 0.08  # of CLIP similarity from the cloud's surface to the field; 2: all are kept
    checkpoint_every: int = 40  # steps
    field: FieldConfig = dataclasses.field(default_factory=FieldConfig)
    render: RenderConfig = dataclasses.field(default_factory=lambda: RenderConfig(samples=32))
    views: ViewConfig = dataclasses.field(default_factory=ViewConfig)
    sds: SdsConfig = dataclasses.field(default_factory=SdsConfig)
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "render_size", "lr_density", "lr_color", "lr_decay", "disc", "checkpoint_every"):
            if getattr(self, name) <= 0:
                raise ConfigError("config_value", f"reconstruct.{name} is {getattr(self, name)}; must be > 0")
        if not 0 <= self.background[0] <= self.background[1] <= 1:
            raise ConfigError(
                "config_value", f"reconstruct.background is {self.background}; need 0 <= low <= high <= 1"
            )
        if not 0 <= self.coarse_until <= 1 or (self.coarse_until and self.render_size % 2):
            raise ConfigError(
                "config_value",
                f"reconstruct.coarse_until is {self.coarse_until}; must be in 0..1, render_size even unless it is 0",
            )
        if self.field.latent and self.coarse_until:
            raise ConfigError("config_value", "latents have one size: reconstruct.field.latent needs coarse_until = 0")
        if self.field.latent and (self.start != "fog" or self.losses.reference_rgb):
            raise ConfigError(
                "config_value",
                "latents compare neither with the cloud's colours nor with the photo's: reconstruct.field.latent needs "
                'reconstruct.start = "fog" and reconstruct.losses.reference_rgb = 0',
            )

    @property
    def judges(self) -> bool:
        """Whether fields are compared with the surfaces of their clouds at all."""
        return self.max_fall < 2


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of B objects before they have a field."""

    crops: Float[Tensor, "B 4 S S"]  # RGBA in [0, 1], straight alpha
    concept: Concept
    cloud: Cloud
    camera: Camera  # reference: from where the crop sees the canonical object


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """One object's field (B = 1) and the running means of its unweighted losses at the end."""

    field: Field
    kept: Kept
    rise: float | None  # of the CLIP similarity to the photo, from the cloud's surface to the field
    losses: dict[str, float]  # by the names of LossTerms
    opacity: float  # of what was distilled: mean inside the crop's mask, from the reference camera
    fog: float  # the same, mean outside it, but for what may be hidden
    dropped: float  # share of the denoiser's predictions that were not finite and left out, 0..1


@dataclass(frozen=True, slots=True)
class Guide:
    """What every step needs of the evidence, on the denoiser's device."""

    cloud: Cloud
    camera: Camera
    target: Float[Tensor, "B 4 s s"]  # the crop at render size, premultiplied
    known: Float[Tensor, "B s s"]  # 0 where something may stand before the object, else 1
    texts: Float[Tensor, "4 B L D"]  # the concept behind each view prefix
    no_text: Float[Tensor, "B L D"]
    adapter: Adapter | None  # a row for each view

    def halved(self) -> "Guide":
        """The photo at half the size."""
        target, known = (nn.functional.avg_pool2d(image, 2) for image in (self.target, self.known[:, None]))
        return dataclasses.replace(self, target=target, known=known[:, 0])


class Reconstructor:
    """Runs the distillation; holds the networks and nothing of the objects. Without a CLIP every field is kept."""

    def __init__(self, config: ReconstructConfig, denoiser: Denoiser, clip: Clip | None) -> None:
        if config.field.latent and config.render_size * denoiser.latent_scale != denoiser.image_size:
            raise ConfigError(
                "config_value",
                f"reconstruct.render_size is {config.render_size}; latents of {config.weights} are "
                f"{denoiser.image_size // denoiser.latent_scale} a side (reconstruct.field.latent)",
            )
        self.config = config
        self.denoiser = denoiser
        self.clip = clip

    def run(
        self, evidence: Evidence, generators: Sequence[torch.Generator], state: bytes | None = None
    ) -> Iterator[State]:
        """Yield the state every `checkpoint_every` steps and at the end; go on from `state` if there is one.

        `generators` (one per object) are moved on, or set to where `state` left them.

        Raises: InputError("bad_checkpoint") if `state` does not `fit`.
        """
        config, guide, device = self.config, self._guide(evidence), self.denoiser.device
        if state is None:
            start = State.begin(self._first_field(evidence, generators), generators, len(LossTerms._fields))
        else:
            start = self.fit(state, len(evidence.crops))
        field, running = start.field(config.field).to(device), start.losses.to(device)
        dropped = start.dropped.to(device)
        rates = ((field.density_grid, config.lr_density), (field.color_grid, config.lr_color))
        kind = torch.optim.Adamax if config.optimizer == "adamax" else torch.optim.Adam
        optimizer: Optimizer = kind([{"params": grid, "lr": rate} for grid, rate in rates])
        start.restore(field, optimizer, generators)
        if start.step == config.steps:
            yield start
        coarse = guide.halved()
        for step in range(start.step, config.steps):
            progress = step / config.steps
            seen = coarse if progress < config.coarse_until else guide
            terms, lost = self._step(seen, field, optimizer, progress, generators)
            running = running + (terms - running) / min(step + 1, MEMORY)
            dropped = dropped + lost
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                yield State.capture(step + 1, field, optimizer, generators, running, dropped)

    def fit(self, state: bytes, n_objects: int) -> State:
        """The state of `State.to_bytes`, from which a run of so many objects can go on.

        Raises: InputError("bad_checkpoint") if it is of another layout, batch, grid or number of steps.
        """
        return _check(State.from_bytes(state), n_objects, self.config)

    def _first_field(self, evidence: Evidence, generators: Sequence[torch.Generator]) -> Field:
        match self.config.start:
            case "cloud":
                return Field.from_cloud(evidence.cloud, self.config.field)
            case "fog":
                channels = self.denoiser.latent_channels if self.config.field.latent else 3
                return Field.fog(self.config.field, generators, channels)
            case _:
                assert_never(self.config.start)

    @torch.no_grad()
    def finish(self, evidence: Evidence, state: State) -> list[Reconstructed | NumericsError]:
        """The fields of the last state, each judged from its reference camera, and beside the surface of its cloud.

        The errors are NumericsError "denoiser_not_finite", "field_not_finite", "clip_not_finite", "field_empty" and
        "field_fog"; each concerns one object only.

        Raises: WeightsError as `check_network`.
        """
        config = self.config
        field = state.field(config.field).to(self.denoiser.device)
        if config.field.latent:
            field = to_rgb(field, self.denoiser, config.background[1], config.render)
        surface, rises = self._beside_clouds(evidence, field)
        inside, outside = self._opacities(evidence, field)
        finite = field.density_grid.isfinite().flatten(1).all(1) & field.color_grid.isfinite().flatten(1).all(1)
        finite &= inside.isfinite() & outside.isfinite() & state.losses.isfinite().all(1).to(finite.device)
        dropped = (state.dropped / (config.views.count * max(state.step, 1))).tolist()
        self._check_networks(finite.tolist(), dropped, rises)
        rows = zip(
            finite.tolist(), dropped, inside.tolist(), outside.tolist(), state.losses.tolist(), rises, strict=True
        )
        found: list[Reconstructed | NumericsError] = []
        for b, (sound, lost, opacity, fog, terms, rise) in enumerate(rows):
            worse = rise is not None and rise < -config.max_fall
            kept = (surface if worse else field).row(b).cpu()
            losses = dict(zip(LossTerms._fields, terms, strict=True))
            made = Reconstructed(kept, "cloud" if worse else "field", rise, losses, opacity, fog, lost)
            found.append(_judge(sound, lost, opacity, fog, rise, config) or made)
        return found

    def _check_networks(self, finite: Sequence[bool], dropped: Sequence[float], rises: Sequence[float | None]) -> None:
        """Raises: WeightsError if denoiser or CLIP, and not the objects, must be the cause of NaN or Inf."""
        config, denoiser = self.config, self.denoiser
        lost = [
            share > config.sds.max_dropped or (share > 0 and not sound)  # of a broken VAE, one ends the field
            for share, sound in zip(dropped, finite, strict=True)
        ]
        hint = bool(config.sds.hint_scale)
        check_network(lost, lambda: denoiser.is_sound(hint), config.weights, denoiser.dtype)
        judged = [rise for rise, sound in zip(rises, finite, strict=True) if sound and rise is not None]
        if self.clip is not None:
            unlike = [not math.isfinite(rise) for rise in judged]
            check_network(unlike, self.clip.is_sound, config.clip_weights, self.clip.dtype)

    def _beside_clouds(self, evidence: Evidence, field: Field) -> tuple[Field, list[float | None]]:
        """The clouds' surfaces, and by how much more the fields look like their photos than those do."""
        if self.clip is None:
            return field, [None] * len(field)
        device = self.denoiser.device
        surface, camera = Field.from_cloud(evidence.cloud.to(device), field.config), evidence.camera.to(device)
        after, before = (
            likeness(shown, camera, evidence.crops, self.clip, self.config.render) for shown in (field, surface)
        )
        return surface, (after - before).tolist()

    def _opacities(self, evidence: Evidence, field: Field) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """Mean opacity inside the masks and, but for what may be hidden, outside, from the reference cameras."""
        config, device = self.config, self.denoiser.device
        mask, camera = _shrink(evidence.crops.to(device), config.render_size)[:, 3], evidence.camera.to(device)
        clear = (1 - mask) * _known(evidence.cloud.to(device), camera, mask, config.disc)
        alpha = render(field, camera, config.render_size, config.render).alpha
        inside, outside = ((alpha * share).sum((1, 2)) / share.sum((1, 2)).clamp_min(1e-6) for share in (mask, clear))
        return inside, outside

    @torch.no_grad()
    def _guide(self, evidence: Evidence) -> Guide:
        """The prompts are encoded once, not at every step."""
        device, concept = self.denoiser.device, evidence.concept.to(self.denoiser.device)
        texts = [self.denoiser.encode_text(concept, prefix) for prefix in self.config.views.prefixes]
        cloud, camera, size = evidence.cloud.to(device), evidence.camera.to(device), self.config.render_size
        target = _shrink(evidence.crops.to(device), size)
        no_words = dataclasses.replace(self.denoiser.embed_prompts([""] * len(concept)), adapter=concept.adapter)
        n_views = self.config.views.count
        return Guide(
            cloud=cloud,
            camera=camera,
            target=target,
            known=_known(cloud, camera, target[:, 3], self.config.disc),
            texts=torch.stack(texts),
            no_text=self.denoiser.encode_text(no_words),
            adapter=concept.adapter and concept.adapter.each(lambda factor: factor.repeat_interleave(n_views, 0)),
        )

    def _distil(
        self,
        guide: Guide,
        rendering: Rendering,
        views: Views,
        hint: Float[Tensor, "BV 3 H W"],
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> tuple[Float[Tensor, "B"], Int[Tensor, "B"]]:
        """Half the mean square distance of each object's latents to where the denoiser would move them.

        Its gradient is the score-distillation gradient, over the number of latents. The second is how many predictions
        were dropped: the denoiser's of finite pictures; those of a field that is not finite are the field's fault.
        """
        config, denoiser, n_objects = self.config, self.denoiser, len(generators)
        if config.losses.sds == 0:
            zeros = hint.new_zeros(n_objects)
            return zeros, zeros.long()  # the baseline without a denoiser: cloud and photo alone
        low, high = config.background
        grey = low + (high - low) * seed.rand((config.views.count, 1), generators, hint.device).flatten(0, 1)
        image = composite(rendering, grey.expand(-1, rendering.color.shape[1]))
        latents = image if config.field.latent else denoiser.encode_image(image).float()
        shape = (config.views.count, *latents.shape[1:])
        t = sample_timesteps(config.sds, progress, len(denoiser.alphas_cumprod), generators, config.views.count)
        noise = seed.randn(shape, generators, latents.device).flatten(0, 1)
        owner = torch.arange(n_objects, device=latents.device).repeat_interleave(config.views.count)
        texts = guide.texts[views.prefix, owner], guide.no_text[owner]
        seen_hint = hint if config.sds.hint_scale else None
        t = t.to(latents.device)
        gradient, lost = sds_gradient(latents.detach(), denoiser, texts, seen_hint, t, noise, config.sds, guide.adapter)
        lost &= image.detach().isfinite().flatten(1).all(1)
        goal = (latents - gradient).detach()
        return (latents - goal).square().reshape(n_objects, -1).mean(1) / 2, lost.view(n_objects, -1).sum(1)

    def _step(
        self,
        guide: Guide,
        field: Field,
        optimizer: Optimizer,
        progress: float,
        generators: Sequence[torch.Generator],
    ) -> tuple[Float[Tensor, "B L"], Int[Tensor, "B"]]:
        """One update of all objects; their unweighted losses, and how many predictions were dropped.

        `progress` runs from 0 to 1.
        """
        config, n_objects, size = self.config, len(field), guide.target.shape[-1]

        # See every object from random views and from the photo's
        views = sample_views(config.views, generators, guide.target.device)
        cameras = _interleave(views.camera, guide.camera, n_objects)
        rendering = render(field, cameras, size, config.render, generators if config.jitter else None)
        random, reference = _separate(rendering, n_objects)

        # Ask the denoiser about the random views, under the cloud's depth
        n_views = config.views.count
        cloud = Cloud(*(value.repeat_interleave(n_views, 0) for value in (guide.cloud.points, guide.cloud.colors)))
        radius = config.disc / cloud.points.shape[1] ** 0.5
        depth, _, silhouette = splat(cloud, views.camera, size, radius)
        if self.denoiser.image_size != size:  # a hint is as sharp as the denoiser can read it
            depth, _, _ = splat(cloud, views.camera, self.denoiser.image_size, radius)
        sds, lost = self._distil(guide, random, views, condition(depth), progress, generators)

        # Add up what each object lacks
        background = seed.rand((3,), generators, guide.target.device)
        terms = LossTerms(
            sds=sds,
            reference_rgb=torch.zeros_like(sds)
            if config.field.latent
            else losses.reference_rgb(reference, guide.target, guide.known, background),
            reference_mask=losses.reference_mask(reference, guide.target, guide.known),
            silhouette=losses.opacity(random, silhouette, n_objects),
            tv=losses.total_variation(field),
            emptiness=losses.emptiness(random, n_objects),
        )

        # Update
        _set_rates(optimizer, config, progress)
        optimizer.zero_grad(set_to_none=True)
        terms.weigh(config.losses, progress).sum().backward()
        optimizer.step()
        return torch.stack(terms, dim=1).detach(), lost


def load_reconstructor(config: ReconstructConfig, place: Place) -> Reconstructor:
    """A reconstructor with the denoiser `config.weights` and, to judge fields, the CLIP `config.clip_weights`."""
    clip = load_clip(config.clip_weights, place) if config.judges else None
    return Reconstructor(config, load_denoiser(config.weights, place), clip)


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


def _judge(
    finite: bool, dropped: float, opacity: float, fog: float, rise: float | None, config: ReconstructConfig
) -> NumericsError | None:
    """Why a field is no object, if it is none."""
    if dropped > config.sds.max_dropped:
        limit = f"at most {config.sds.max_dropped:.0%} may be (reconstruct.sds.max_dropped)"
        message = f"{dropped:.1%} of the denoiser's predictions are NaN or Inf, {limit}; try another dtype"
        return NumericsError("denoiser_not_finite", message)
    if not finite:
        return NumericsError(
            "field_not_finite", "the field has a NaN or Inf; lower reconstruct.lr_density or sds.cfg_scale"
        )
    if rise is not None and not math.isfinite(rise):
        return NumericsError("clip_not_finite", f"the CLIP similarity to the photo rises by {rise}; try another dtype")
    if opacity < config.min_opacity:
        message = (
            f"mean opacity inside the mask is {opacity:.3f}, at least {config.min_opacity} (reconstruct.min_opacity)"
        )
        return NumericsError("field_empty", message)
    if fog > config.max_fog:
        message = f"mean opacity outside the mask is {fog:.3f}, at most {config.max_fog} (reconstruct.max_fog)"
        return NumericsError("field_fog", message)
    return None


def _shrink(crops: Float[Tensor, "B 4 S S"], size: int) -> Float[Tensor, "B 4 s s"]:
    """Premultiplied and averaged down, so that colour outside the mask does not bleed in."""
    premultiplied = torch.cat([crops[:, :3] * crops[:, 3:], crops[:, 3:]], dim=1)
    return nn.functional.interpolate(premultiplied, (size, size), mode="area")


def _known(cloud: Cloud, camera: Camera, mask: Float[Tensor, "B s s"], disc: float) -> Float[Tensor, "B s s"]:
    """1 where the photo tells what there is of the object; 0 where the cloud is seen outside the mask.

    There, something may stand before the object. Within RIM of the cloud's outline it is rather the cloud that errs.
    """
    size = mask.shape[-1]
    _, _, silhouette = splat(cloud, camera, size, disc / cloud.points.shape[1] ** 0.5)
    rim = round(RIM * size)
    inner = -nn.functional.max_pool2d(-silhouette[:, None], 2 * rim + 1, stride=1, padding=rim)[:, 0]
    return 1 - inner * (1 - mask)


def _interleave(random: Camera, reference: Camera, n_objects: int) -> Camera:
    """Each object's random cameras and then its reference camera."""
    pairs = ((random.pose, reference.pose), (random.intrinsics, reference.intrinsics))
    pose, intrinsics = (
        torch.cat([several.unflatten(0, (n_objects, -1)), one[:, None]], dim=1).flatten(0, 1) for several, one in pairs
    )
    return Camera(pose, intrinsics)


def _separate(rendering: Rendering, n_objects: int) -> tuple[Rendering, Rendering]:
    """The random views and the reference views of `_interleave`."""
    values = (rendering.color, rendering.alpha, rendering.depth, rendering.weights)
    grouped = [value.unflatten(0, (n_objects, -1)) for value in values]
    return Rendering(*(value[:, :-1].flatten(0, 1) for value in grouped)), Rendering(
        *(value[:, -1] for value in grouped)
    )


def _set_rates(optimizer: Optimizer, config: ReconstructConfig, progress: float) -> None:
    decay = config.lr_decay**progress
    for group, rate in zip(optimizer.param_groups, (config.lr_density, config.lr_color), strict=True):
        group["lr"] = rate * decay
