"""Row 8: one step of score distillation at the size of Stable Diffusion 1.5, against what other code computes.

Theirs is written out here from threestudio@28d9d80 (threestudio/models/guidance/stable_diffusion_guidance.py,
`compute_grad_sds` and `encode_images`) and stable-dreamfusion@5550b91 (guidance/sd_utils.py, `train_step` and
`encode_imgs`). Two things are changed so that all compute the same: the posterior's mean is encoded, where theirs draw
a sample, and their gradient is given for one view, where theirs divide by the batch. threestudio's scale of guidance is
ours less 1. It decodes the denoised latents in every step; only its image-space loss reads them, which is off.

Nothing runs for the count: fake tensors tell their shapes, and each operation its FLOPs.
"""

from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from anything3d.distil.gradient import Prompt, sds_gradient
from anything3d.models.diffusion import Denoiser, load_denoiser
from anything3d.models.weights import Place, directory
from tests import full_size
from tests.bench.row import Counted, Pair, Timed

OBJECTS, RENDER_PX, SCALE = 8, 128, 25.0
CONTEXT, WIDTH, STEPS = 77, 768, 1000  # tokens of a prompt, channels of each, timesteps of the schedule


def ours(denoiser, image, prompt, t, noise):
    """The gradient of the images' pixels."""
    latents = denoiser.encode_image(image).float()
    gradient, _ = sds_gradient(latents, denoiser, prompt, t, noise, "sds")
    return torch.autograd.grad(latents, image, gradient)[0]


def threestudio(denoiser, vae, image, prompt, t, noise):
    latents = _encoded(vae, image)
    with torch.no_grad():
        noisy = denoiser.add_noise(latents, noise, t)
        both = _unet(denoiser, torch.cat([noisy] * 2), torch.cat([t] * 2), torch.cat([prompt.text, prompt.no_text]))
    text, uncond = both.chunk(2)
    predicted = text + (prompt.cfg_scale - 1) * (text - uncond)
    alphas = denoiser.alphas_cumprod
    alpha, sigma = (alphas[t] ** 0.5).view(-1, 1, 1, 1), ((1 - alphas[t]) ** 0.5).view(-1, 1, 1, 1)
    denoised = (noisy - sigma * predicted) / alpha
    vae.decode((denoised / vae.config.scaling_factor).to(vae.dtype))
    w = (1 - alphas[t]).view(-1, 1, 1, 1)
    return _pulled(latents, w * (predicted - noise), image)


def dreamfusion(denoiser, vae, image, prompt, t, noise):
    latents = _encoded(vae, image)
    with torch.no_grad():
        noisy = denoiser.add_noise(latents, noise, t)
        both = _unet(denoiser, torch.cat([noisy] * 2), torch.cat([t] * 2), torch.cat([prompt.no_text, prompt.text]))
        uncond, text = both.chunk(2)
        predicted = uncond + prompt.cfg_scale * (text - uncond)
    w = (1 - denoiser.alphas_cumprod[t])[:, None, None, None]
    return _pulled(latents, w * (predicted - noise), image)


def _encoded(vae, image):
    side = vae.config.sample_size
    enlarged = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
    return (vae.encode((enlarged * 2 - 1).to(vae.dtype)).latent_dist.mean * vae.config.scaling_factor).float()


def _unet(denoiser, noisy, t, text):
    return denoiser.unet(noisy.to(denoiser.dtype), t, encoder_hidden_states=text.to(denoiser.dtype)).sample.float()


def _pulled(latents, gradient, image):
    target = (latents - torch.nan_to_num(gradient)).detach()
    loss = 0.5 * F.mse_loss(latents, target, reduction="sum") / len(latents)
    return torch.autograd.grad(loss, image)[0] * len(latents)


PEERS = {"threestudio": threestudio, "stable-dreamfusion": dreamfusion}


@cache
def tera_flop(side, objects, hint=False):
    """FLOPs of one step of so many objects, of one view each, in 10^12."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        denoiser, vae = _full("cpu", torch.float32)
        inputs = _inputs(objects, RENDER_PX, 512, denoiser, (CONTEXT, WIDTH), hint)
        if side == "ours":
            ours(denoiser, *inputs)
        else:
            PEERS[side](denoiser, vae, *inputs)
    return counter.get_total_flops() / 1e12


def _full(device, dtype):
    """Stable Diffusion 1.5 with its ControlNet, random weights."""
    builds = (full_size.unet, full_size.controlnet, full_size.vae, full_size.text_encoder)
    networks = [build().eval().requires_grad_(False) for build in builds]
    if (device, dtype) != (
        "cpu",
        torch.float32,
    ):  # torch 2.15 does not let `to` touch fake tensors, not even for nothing
        networks = [network.to(device, dtype) for network in networks]
    unet, controlnet, vae, text = networks
    vae.register_to_config(sample_size=512)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, device=device) ** 2
    denoiser = Denoiser(
        unet=unet,
        controlnet=controlnet,
        encode=lambda pixels: vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor,
        decode=lambda latents: vae.decode(latents / vae.config.scaling_factor).sample,
        text_encoder=text,
        table=text.get_input_embeddings(),
        tokenize=lambda prompts: torch.zeros(len(prompts), CONTEXT, dtype=torch.long),
        alphas_cumprod=(1 - betas).cumprod(0),
        latent_channels=4,
        latent_scale=8,
        image_size=512,
        start_token=49406,
        end_token=49407,
        predicts_velocity=False,
        device=torch.device(device),
        dtype=dtype,
    )
    return denoiser, vae


def _inputs(objects, side, image_size, denoiser, text_shape, hint):
    device = denoiser.device
    image = torch.rand(objects, 3, side, side, device=device, requires_grad=True)
    text, no_text = (torch.randn(objects, *text_shape, device=device) for _ in range(2))
    depth = torch.rand(objects, 3, image_size, image_size, device=device) if hint else None
    latent = image_size // denoiser.latent_scale
    t = torch.randint(20, len(denoiser.alphas_cumprod) // 2, (objects,), device=device)
    noise = torch.randn(objects, denoiser.latent_channels, latent, latent, device=device)
    return image, Prompt(text, no_text, SCALE, depth), t, noise


@contextmanager
def _pair(size, device, peer):
    """Toy: the mini denoiser, two objects. Full: eight objects of ours in one call, theirs one after the other."""
    from diffusers import AutoencoderKL

    if size == "toy":
        denoiser = load_denoiser("diffusion", Place(device))
        vae = AutoencoderKL.from_pretrained(directory("diffusion", Place(device)) / "vae").requires_grad_(False)
        vae.register_to_config(sample_size=denoiser.image_size)
        text_shape, objects, side = (CONTEXT, denoiser.unet.config.cross_attention_dim), 2, denoiser.image_size
    else:
        denoiser, vae = _full(device, torch.bfloat16)
        text_shape, objects, side = (CONTEXT, WIDTH), OBJECTS, denoiser.image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image, prompt, t, noise = _inputs(objects, side, denoiser.image_size, denoiser, text_shape, False)

    def theirs():
        parts = []
        for b in range(objects):
            row = slice(b, b + 1)
            some = Prompt(prompt.text[row], prompt.no_text[row], prompt.cfg_scale)
            pixels = image.detach()[row].requires_grad_()
            parts.append(PEERS[peer](denoiser, vae, pixels, some, t[row], noise[row]))
        return torch.cat(parts)

    far = 1e-3 if size == "toy" else 0.1  # bfloat16

    def check(mine, other):
        most = float((mine - other).abs().max() / other.abs().max())
        assert most < far, f"gradients differ by {most} of the largest"
        return f"gradients of pixels differ by at most {most:.1e} of the largest"

    yield Pair(lambda: ours(denoiser, image, prompt, t, noise), theirs, check)


def _counted(number, peer, objects):
    what = f"an SDS step at SD 1.5 size, {objects} object{'s' * (objects > 1)}, without depth"
    return Counted(number, what, peer, None, "TFLOP", lambda: (tera_flop("ours", objects), tera_flop(peer, objects)))


COUNTED = (
    _counted("8t", "threestudio", 1),
    _counted("8t8", "threestudio", OBJECTS),
    _counted("8s", "stable-dreamfusion", 1),
    Counted(
        "8d",
        "the same with depth, 1 object",
        "threestudio without depth",
        None,
        "TFLOP",
        lambda: (tera_flop("ours", 1, True), tera_flop("threestudio", 1)),
    ),
)
TIMED = tuple(
    Timed(
        number,
        "an SDS step of 8 objects in one batch, SD 1.5 size, bfloat16",
        f"{peer}'s arithmetic, one object at a time",
        3,
        lambda size, folder, device, peer=peer: _pair(size, device, peer),
        gpu=True,
    )
    for number, peer in (("8gt", "threestudio"), ("8gs", "stable-dreamfusion"))
)
