"""Vocabularies of the toy tokenizers: every word of the mini world is one token, and any other text can be encoded too.

CLIP has byte-level byte-pair encoding. Its merges are learnt from the list of words, until each word is one token. The
256 bytes (inside and at the end of a word) encode everything else, as in the official vocabulary. BLIP has BERT's
WordPiece: the words, and single characters (first and continuing) for everything else.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from anything3d.mini.words import CAPTION_WORDS

START, END = "<|startoftext|>", "<|endoftext|>"  # CLIP's special tokens; END is padding too
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")  # [DEC] begins a BLIP caption
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"


@dataclass(frozen=True, slots=True)
class ClipVocabulary:
    """Ids by token (`word</w>` ends a word) and the merges in order of priority. The last two ids are START and END."""

    ids: dict[str, int]
    merges: tuple[tuple[str, str], ...]

    @property
    def start(self) -> int:
        return self.ids[START]

    @property
    def end(self) -> int:
        return self.ids[END]

    def __len__(self) -> int:
        return len(self.ids)


@cache
def clip_vocabulary() -> ClipVocabulary:
    """The vocabulary that mini CLIP and the mini diffusion model's text encoder share (about 600 tokens)."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())  # one printable stand-in for each of the 256 bytes
    merges = learn_merges(CAPTION_WORDS)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return ClipVocabulary({token: index for index, token in enumerate(tokens)}, merges)


def learn_merges(words: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Byte-pair merges after which every word is one token.

    Each round merges the most frequent neighbouring pair everywhere, ties by spelling, as in Sennrich et al. 2016.
    """
    spellings = [(*word[:-1], f"{word[-1]}</w>") for word in dict.fromkeys(words)]
    merges = []
    while counts := Counter(pair for spelling in spellings for pair in pairwise(spelling)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spellings = [merge(spelling, best) for spelling in spellings]
    return tuple(merges)


def merge(spelling: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """`spelling` with every occurrence of `pair`, from the left, joined to one token."""
    joined: list[str] = []
    rest = list(spelling)
    while rest:
        width = 2 if tuple(rest[:2]) == pair else 1
        joined.append("".join(rest[:width]))
        del rest[:width]
    return tuple(joined)


def save_clip_tokenizer(directory: Path, max_length: int) -> None:
    """Write a folder that `CLIPTokenizer.from_pretrained` reads; `max_length` counts START and END."""
    from transformers import CLIPTokenizer

    vocabulary = clip_vocabulary()
    CLIPTokenizer(vocab=vocabulary.ids, merges=list(vocabulary.merges), model_max_length=max_length).save_pretrained(
        directory
    )


@cache
def bert_vocabulary() -> dict[str, int]:
    """Ids of mini BLIP's tokens: special ones, words, characters, continuing characters."""
    tokens = [*BERT_SPECIAL, *CAPTION_WORDS, *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def save_bert_tokenizer(directory: Path, max_length: int) -> None:
    """Write a folder that `BertTokenizer.from_pretrained` reads; `max_length` counts the special tokens."""
    from transformers import BertTokenizer

    BertTokenizer(vocab=bert_vocabulary(), bos_token="[DEC]", model_max_length=max_length).save_pretrained(directory)
