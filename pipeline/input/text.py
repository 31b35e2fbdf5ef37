"""Files that people wrote: lists, ids, settings. This file imports little, since every command may read one."""

import codecs


def text_of(data: bytes) -> str:
    """The text of such a file: UTF-8, or UTF-16 with its mark, as PowerShell writes it."""
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if utf_16 else "utf-8-sig", "replace")
