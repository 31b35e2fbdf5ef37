"""The licences that are known by name: where their texts are, and which uses they allow. This is no legal advice.

A licence has its SPDX name where it has one. The column `licence` of an object names all that apply, with "; " between.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from anything3d.errors import ConfigError

Use = Literal["commercial", "research"]
USES: frozenset[Use] = frozenset(get_args(Use))
RESEARCH: frozenset[Use] = frozenset(("research",))
SOME_FORBIDDEN = "It forbids some uses of the weights and of what they make."
CC = "https://creativecommons.org"


@dataclass(frozen=True, slots=True)
class Licence:
    """What is known of a licence by its name."""

    url: str  # of its text
    hub: str  # its name on the Hub; "" if the Hub has none
    terms: str = ""  # what a reader has to know first
    uses: frozenset[Use] = USES  # that it allows


LICENCES = {
    "SA-1B Dataset Research License": Licence(
        "https://ai.meta.com/datasets/segment-anything-downloads/",
        "",
        "It allows research only. What is made from the photos stands under it, too: crops, masks, clouds and meshes.",
        RESEARCH,
    ),
    "not stated": Licence(
        "", "", "Nobody has stated the licence of the photos: ask where they come from.", frozenset()
    ),
    "Apache-2.0": Licence("https://www.apache.org/licenses/LICENSE-2.0", "apache-2.0"),
    "MIT": Licence("https://opensource.org/license/mit", "mit"),
    "BSD-3-Clause": Licence("https://opensource.org/license/bsd-3-clause", "bsd-3-clause"),
    "CC0-1.0": Licence(f"{CC}/publicdomain/zero/1.0/", "cc0-1.0"),
    "CC-BY-4.0": Licence(f"{CC}/licenses/by/4.0/", "cc-by-4.0", "It wants the author to be named."),
    "CC-BY-SA-4.0": Licence(
        f"{CC}/licenses/by-sa/4.0/",
        "cc-by-sa-4.0",
        "It wants the author to be named, and what is made from it to stand under the same licence.",
    ),
    "CC-BY-NC-4.0": Licence(
        f"{CC}/licenses/by-nc/4.0/",
        "cc-by-nc-4.0",
        "It allows no commercial use, and wants the author to be named.",
        RESEARCH,
    ),
    "CC-BY-NC-SA-4.0": Licence(
        f"{CC}/licenses/by-nc-sa/4.0/",
        "cc-by-nc-sa-4.0",
        "It allows no commercial use, and wants what is made from it to stand under the same licence.",
        RESEARCH,
    ),
    "CreativeML OpenRAIL-M": Licence(
        "https://huggingface.co/spaces/CompVis/stable-diffusion-license", "creativeml-openrail-m", SOME_FORBIDDEN
    ),
    "CreativeML OpenRAIL++-M": Licence(
        "https://huggingface.co/stabilityai/stable-diffusion-2/blob/main/LICENSE-MODEL", "openrail++", SOME_FORBIDDEN
    ),
}


def check_use(use: Use, licences: Mapping[str, int]) -> None:
    """Whether objects may be used in a way. `licences` has the values of their column, and the objects of each.

    A licence that is not known allows nothing, as nobody has read it here.

    Raises: ConfigError("export_licence"), which names each licence that does not allow it, and its objects.
    """
    forbidding: dict[str, int] = {}
    for value, objects in licences.items():
        for name in value.split("; "):
            if name not in LICENCES or use not in LICENCES[name].uses:
                forbidding[name] = forbidding.get(name, 0) + objects
    if forbidding:
        said = "; ".join(
            f"{name!r} ({objects} objects) {'does not allow it' if name in LICENCES else 'is not known'}"
            for name, objects in sorted(forbidding.items())
        )
        raise ConfigError(
            "export_licence",
            f"--use {use}: {said}. Leave these objects out with --where \"licence not like '%...%'\". If you know the"
            " licence and it allows the use, export without --use.",
        )
