"""The stages at full size, ready to be counted: their networks without weights, and calls of their own code.

Crops, photos and prompts are tensors without values, too. The calls are those of a run, with the same functions. Only
what has no networks and is done once, on the CPU, is left out: masks as run lengths, the first field, the mesh.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, assert_never

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anything3d.caption import Blip
from anything3d.distil.evidence import Evidence
from anything3d.distil.guide import prepare
from anything3d.distil.sds import Sds
from anything3d.distil.step import Step
from anything3d.invert import Inverter
from anything3d.lift import PointELifter
from anything3d.method import MethodConfig, Pace
from anything3d.models import official
from anything3d.models.clip import Clip
from anything3d.models.clip import assemble as assemble_clip
from anything3d.models.diffusion import Denoiser, assemble
from anything3d.models.dino import assemble as assemble_dino
from anything3d.models.encoder import REACH, Encode, of_colors, of_taesd
from anything3d.models.pretrained import Preprocessor
from anything3d.models.sam.closer import blend
from anything3d.models.sam.loading import assemble as assemble_sam
from anything3d.models.sam.prompting import Features, Predicted
from anything3d.models.sam.sam2 import assemble_sam2
from anything3d.models.weights import Place
from anything3d.photo.pixels import WHITE
from anything3d.quality.likeness import likeness, similarity, turntable
from anything3d.quality.looks import GPU_POINTS
from anything3d.settings.reconstruct import RenderConfig
from anything3d.space.camera import Camera
from anything3d.space.cloud import Cloud
from anything3d.space.field import Field
from anything3d.space.render import composite, render

PHOTO_PX = (1500, 2250)  # a photo of SA-1B: its shorter side has 1,500 px
PROMPTS = 100  # masks of a photo; SA-1B has 100 on average (Kirillov et al. 2023)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # its preprocessor
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # likewise
START, END = 49406, 49407  # of CLIP's vocabulary, which Stable Diffusion 1 and 2 use
PROMPT_TOKENS = 77  # of CLIP's text encoder
BLIP_TOKENS = {"start": 30522, "end": 102, "pad": 0}  # of BLIP's vocabulary
BLIP_PX = 384
BLIP_PROMPT = 3  # tokens of "a picture of"
NO_RUNS = np.zeros(0, np.int64)
POINTS = 4096  # of a cloud of Point-E: 1,024 and the upsampler's 3,072


@dataclass(frozen=True, slots=True)
class Part:
    """A call of a stage, for n items at once, and how often it is made for an item."""

    name: str
    times: float
    call: Callable[[int], object]
    over: str = ""  # the part whose counts are in those of this one, too, and are taken off


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage holds in memory, and what it does."""

    name: str
    item: str
    networks: Mapping[str, Any]  # class of a network -> it
    parts: tuple[Part, ...]
    batch: int  # items that are computed at once as the settings are


@dataclass(frozen=True, slots=True)
class FullSize:
    """Makes the stages of a configuration, at one device; a FakeTensorMode has to be on."""

    config: MethodConfig
    place: Place
    pace: Pace
    objects: int  # of a unit

    def segment(self) -> Stage:
        """SAM or SAM 2 with one prompt for each mask of a photo, whatever `segment.source` is, and as many closer looks
        as objects may be kept."""
        config = self.config.segment
        encoders = ("image_encoder", "vision_encoder")
        network = official.shaped(config.weights, "", self.place.device, self._dtype, *encoders)
        is_second = config.weights in official.SAM2
        sam = assemble_sam2(network, processor=None) if is_second else assemble_sam(network)

        def encode(n: int) -> list[Features]:
            return sam.encode([self._zeros(3, *sam.shown(PHOTO_PX)) for _ in range(n)])

        with torch.inference_mode():
            shapes = [level.shape for level in encode(1)[0]]

        def prompt(n: int) -> list[Any]:
            features = tuple(self._zeros(*shape) for shape in shapes)
            return [*sam.surest(features, torch.zeros(n, 2), PHOTO_PX)]

        def look_closer(n: int) -> list[Any]:
            """At n parts of photos, as large as the network sees them: what SAM reads has one size in any case."""
            side, small = sam.side_px, (sam.side_px // 4,) * 2  # of SAM's own logits
            first = Predicted(NO_RUNS, PHOTO_PX[0], 1.0, 1.0, torch.zeros(1, 2), torch.zeros(small).half())
            return [blend(sam, one, first, (slice(0, side), slice(0, side)), PHOTO_PX) for one in encode(n)]

        few = self.pace.prompts_per_batch
        looks = min(PROMPTS, config.max_per_image) if config.zoom else 0
        parts = (
            Part("photo", 1, torch.inference_mode()(encode)),
            Part(f"{few} prompts", PROMPTS / few, torch.inference_mode()(lambda n: prompt(few))),
            Part("closer look", looks, torch.inference_mode()(look_closer)),
        )
        return Stage("segment", "photo", {"Sam": network}, parts, self.pace.images_per_batch)

    def caption(self) -> Stage:
        """BLIP: the crop, and a decoder that goes on to the last token. One pass over all tokens computes as much as a
        search token by token, which keeps what it knows of the earlier ones."""
        config = self.config.caption
        model = self._network(config.weights, "")
        blip = Blip(
            config=config,
            vision=model.vision_model,
            decoder=model.text_decoder,
            generate=model.text_decoder.generate,
            preprocess=Preprocessor(BLIP_PX, BLIP_PX, CLIP_MEAN, CLIP_STD),
            decode=str,
            prompt_ids=(BLIP_TOKENS["start"], *[0] * BLIP_PROMPT),
            end_id=BLIP_TOKENS["end"],
            pad_id=BLIP_TOKENS["pad"],
        )
        copies = config.beams if config.decoding == "beam" else config.samples
        length = 1 + BLIP_PROMPT + config.max_tokens + 1

        @torch.inference_mode()
        def call(n: int) -> Tensor:
            image = blip.look(self._crops(n)[:, :3])
            ids = torch.zeros(n * copies, length, dtype=torch.int64, device=self.place.device)
            return blip.log_probabilities(image.repeat_interleave(copies, 0), ids)

        return Stage("caption", "object", {"Blip": model}, (Part("caption", 1, call),), self.objects)

    def invert(self) -> Stage:
        """All of it: latents, the steps, and both losses at the end."""
        config = self.config.invert
        denoiser, networks = self._denoiser(config.weights)

        def fit(n: int, steps: int) -> object:
            inverter = Inverter(denoiser, dataclasses.replace(config, steps=steps))
            return inverter.fit(self._crops(n), [""] * n, self._generators(n))

        around = Part("around the steps", 1, lambda n: fit(n, 0))
        parts = (around, Part("step", config.steps, lambda n: fit(n, 1), over=around.name))
        return Stage("invert", "object", networks, parts, self.objects)

    def lift(self) -> Stage:
        """Point-E's drafts, the upsampler, and the search for the reference camera."""
        config = self.config.lift
        base, upsampler = (self._network(name, "") for name in (config.weights, config.upsampler_weights))
        clip = self._clip(config.clip_weights)

        def draw(n: int, steps: int) -> object:
            few = dataclasses.replace(config, steps=steps, upsampler_steps=steps)
            device = torch.device(self.place.device)
            lifter = PointELifter(base, upsampler, clip, few, device, self.pace.batch_clouds)
            return lifter.draw(self._crops(n), self._generators(n))

        assert config.steps == config.upsampler_steps, "both samplers are counted by the same number of steps"
        first = Part("first step and search", 1, lambda n: draw(n, 1))
        parts = (first, Part("step", config.steps - 1, lambda n: draw(n, 2), over=first.name))
        networks = {"Base": base, "Upsampler": upsampler, "Clip": clip.vision}
        return Stage("lift", "object", networks, parts, self.objects)

    def reconstruct(self) -> Stage:
        """The steps of `sds` with everything in them, the guide before them and the comparison with the cloud after."""
        config = self.config.reconstruct
        (denoiser, networks), clip = self._denoiser(config.weights), self._clip(config.clip_weights)
        encode, encoders = self._encoder(denoiser)
        method = Sds(Step(config, denoiser, self.pace.max_points), encode)

        def guide(n: int) -> Any:  # noqa: ANN401
            return prepare(self._evidence(n, denoiser), config, denoiser, method.size)

        sds = config.sds
        changes = {sds.denoiser_coarse_until, 0.0 if sds.encoder == "vae" else sds.encoder_until}

        def step(progress: float, n: int) -> object:
            with torch.no_grad():
                known, field = guide(n), self._field(n)
            return method.update(known, field, method.optimizer(field), progress, self._generators(n))

        def judge(n: int) -> Tensor:
            return likeness(self._field(n), self._cameras(n), self._crops(n), clip, config.render, self.pace.max_points)

        parts = (
            Part("guide", 1, guide),
            *(
                Part(f"step up to {end:.0%}", config.steps * (end - begin), partial(step, end - 1e-9), over="guide")
                for begin, end in pairwise(sorted({0.0, *changes, 1.0}))
            ),
            *([Part("likeness", 2, judge)] if config.judges else []),
        )
        networks |= encoders | ({"Clip": clip.vision} if config.judges else {})
        return Stage("reconstruct", "object", networks, parts, self.objects)

    def score(self) -> Stage:
        """Views all round of the field, what CLIP says of them and of the mesh's, and DINOv2 of the mesh's."""
        config, clip = self.config.score, self._clip(self.config.score.clip_weights)
        network = self._network(config.dino_weights, "")
        dino = assemble_dino(network, Preprocessor(256, 224, DINO_MEAN, DINO_STD))
        finely = RenderConfig(samples=config.samples)

        @torch.inference_mode()
        def view(n: int) -> Tensor:
            around = turntable(self._cameras(n), 1, config.turntable_elevation_deg)
            seen = render(self._field(n), around, config.size_px, finely, max_points=GPU_POINTS)
            return composite(seen, WHITE)

        def look(n: int) -> Tensor:
            seen = clip.image_embeddings(self._zeros(n * config.views, 3, config.size_px, config.size_px))
            return similarity(clip, seen, self._crops(n))

        def compare(n: int) -> Tensor:
            views = self._zeros(n * (1 + config.views), 3, config.size_px, config.size_px)
            return dino.image_embeddings(self._crops(n)[:, :3], views)

        parts = (Part("view", config.views, view), Part("likeness", 2, look), Part("DINOv2", 1, compare))
        return Stage("score", "object", {"Clip": clip.vision, "Dinov2Model": network}, parts, 1)

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.place.dtype)

    def _network(self, name: str, part: str) -> Any:  # noqa: ANN401
        return official.shaped(name, part, self.place.device, self._dtype)

    def _denoiser(self, name: str) -> tuple[Denoiser, dict[str, Any]]:
        from diffusers import DDPMScheduler

        unet, controlnet, vae, text = (
            self._network(name, part) for part in ("unet", "controlnet", "vae", "text_encoder")
        )
        scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)

        def tokenize(prompts: list[str]) -> Tensor:
            return torch.zeros(len(prompts), PROMPT_TOKENS, dtype=torch.int64)

        denoiser = assemble(unet, controlnet, vae, text, tokenize, (START, END), scheduler, self.place)
        return denoiser, {"UNet": unet, "ControlNet": controlnet, "VAE": vae, "text encoder": text}

    def _encoder(self, denoiser: Denoiser) -> tuple[Encode, dict[str, Any]]:
        """What `reconstruct.sds.encoder` names, and its networks."""
        config, channels = self.config.reconstruct.sds, denoiser.latent_channels
        match config.encoder:
            case "vae":
                return denoiser.encode, {}
            case "taesd":
                network = self._network(config.encoder_weights, "")
                return of_taesd(network), {"TAESD": network}
            case "linear":
                kernel, offset = (
                    self._zeros(*shape).to(self._dtype) for shape in ((channels, 3, REACH, REACH), (channels,))
                )
                return of_colors(kernel, offset, denoiser.latent_scale), {}
            case _:
                assert_never(config.encoder)

    def _clip(self, name: str) -> Clip:
        return assemble_clip(self._network(name, ""), Preprocessor(224, 224, CLIP_MEAN, CLIP_STD))

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, device=self.place.device)

    def _crops(self, n: int) -> Float[Tensor, "B 4 S S"]:
        side = self.config.segment.crop_size
        return self._zeros(n, 4, side, side)

    def _cameras(self, n: int) -> Camera:
        return Camera(self._zeros(n, 4, 4), self._zeros(n, 4))

    def _field(self, n: int) -> Field:
        config = self.config.reconstruct.field
        grid = (config.resolution,) * 3
        return Field(self._zeros(n, 1, *grid), self._zeros(n, 3, *grid), config)

    def _evidence(self, n: int, denoiser: Denoiser) -> Evidence:
        cloud = Cloud(self._zeros(n, POINTS, 3), self._zeros(n, POINTS, 3))
        return Evidence(self._crops(n), denoiser.embed_prompts([""] * n), cloud, self._cameras(n))

    def _generators(self, n: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(b) for b in range(n)]
