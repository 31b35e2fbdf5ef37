"""The settings of `caption`."""

import unicodedata
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from anything3d.errors import ConfigError
from anything3d.settings import check_ranges

Decoding = Literal["beam", "nucleus"]
MAX_CHARACTERS = 200  # of a caption, which becomes a prompt: CLIP reads at most 77 tokens of it


@dataclass(frozen=True, slots=True)
class CaptionConfig:
    """How BLIP makes a caption of a crop."""

    backend: Literal["blip"] = "blip"  # Which network captions. It is a word of `BACKENDS`.
    weights: str = "blip"  # The weights: a packaged name, or a folder in the layout of transformers' BLIP.
    decoding: Decoding = "beam"  # "beam" gives the likeliest caption; "nucleus" samples one, as the paper's code does.
    # Captions that are sampled for each object, of which one is taken. More than 1 needs "nucleus". The authors take 3.
    samples: Annotated[int, Interval(ge=1, le=64)] = 1
    # One word for the objects, if it is known what they are. Every caption has it then, and inversion moves it alone.
    keyword: str = ""
    beams: Annotated[int, Interval(ge=1, le=64)] = 3  # Width of the beam search. LAVIS takes 3.
    top_p: Annotated[float, Interval(gt=0, le=1)] = 0.9  # Probability mass that nucleus sampling keeps, as LAVIS.
    # Divides the score of tokens that were said before. 1 changes nothing; LAVIS takes 1.1 for nucleus sampling.
    repetition_penalty: Annotated[float, Interval(gt=0, le=100)] = 1.0
    prompt: str = ""  # The beginning of every caption, which is cut off again. LAVIS takes "a picture of".
    # The fewest tokens that are added to the prompt, without the end. LAVIS takes 10 with the 4 of its prompt, so 6.
    min_tokens: Annotated[int, Interval(ge=0, le=75)] = 3
    # The most tokens that are added to the prompt, without the end. LAVIS takes 30 with the 4 of its prompt, so 26. The
    # network must have room for them and the prompt: the mini one reads 32 tokens, BLIP 512.
    max_tokens: Annotated[int, Interval(ge=1, le=75)] = 12

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.min_tokens > self.max_tokens:
            raise ConfigError(
                "setting", f"caption.min_tokens is {self.min_tokens}; at most caption.max_tokens, {self.max_tokens}"
            )
        if self.samples > 1 and self.decoding != "nucleus":
            raise ConfigError(
                "setting", f'caption.samples is {self.samples}; more than 1 needs caption.decoding = "nucleus"'
            )
        if self.keyword != clean(self.keyword) or " " in self.keyword:
            raise ConfigError("setting", f"caption.keyword is {self.keyword!r}; must be one word")


def clean(text: str) -> str:
    """Printable, single spaces, at most 200 characters: captions become prompts, table cells and HTML."""
    printable = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    return " ".join(printable.split())[:MAX_CHARACTERS].rstrip()
