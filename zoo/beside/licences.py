"""Licences: the SPDX identifier of what a model card or a licence file says, where that is beyond doubt."""

import re

FILE_NAMES = (
    "license",
    "licence",
    "license.txt",
    "licence.txt",
    "license.md",
    "licence.md",
    "copying",
    "copying.txt",
    "license-mit",
    "license-apache",
    "unlicense",
)
_VARIANT = "a variant"
HEAD = 1 << 14  # characters looked at: every text below is told by its beginning

_SPDX = {
    one.lower(): one
    for one in (
        "MIT",
        "MIT-0",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSD-3-Clause-Clear",
        "BSL-1.0",
        "GPL-2.0",
        "GPL-3.0",
        "LGPL-2.1",
        "LGPL-3.0",
        "AGPL-3.0",
        "MPL-2.0",
        "EPL-2.0",
        "CC0-1.0",
        "ISC",
        "Unlicense",
        "Zlib",
        "WTFPL",
        "0BSD",
    )
}
_CREATIVE_COMMONS = re.compile(r"cc-by(-nc)?(-nd|-sa)?-\d\.\d")
_ATTRIBUTION = re.compile(r"attribution(-noncommercial)?(-noderivatives|-noderivs|-sharealike)? (\d\.\d) (international|unported|generic)")
_GNU = re.compile(r"gnu (lesser |affero |library )?general public license version (\d(?:\.\d)?), \d* ?[a-z]+ \d{4}")


def spdx(said: str) -> str:
    """Spell a licence id as SPDX does; what is not known stays as it was said.

    Example:
        >>> spdx("apache-2.0"), spdx("cc-by-nc-4.0"), spdx("llama3")
        ('Apache-2.0', 'CC-BY-NC-4.0', 'llama3')
    """
    low = said.strip().lower()
    return low.upper() if _CREATIVE_COMMONS.fullmatch(low) else _SPDX.get(low, said.strip())


def guess_licence(text: str) -> str | None:
    """Tell the licence from its text; None when it is none of the common ones, a variant of one, or more than one.

    The GNU licences are named by version alone: whether later versions may be chosen stands in the programs, not here.
    """
    head = re.sub(r"[\s*#_\"'“”’`]+", " ", text[:HEAD]).strip().lower()
    found = {name for name in (_mit(head), _apache(head), _bsd(head), _gnu(head), _creative_commons(head), _short(head)) if name}
    only = found.pop() if len(found) == 1 else _VARIANT
    return None if only == _VARIANT else only


def _mit(head: str) -> str | None:
    if "permission is hereby granted, free of charge, to any person obtaining a copy" not in head:
        return None
    if "except as contained in this notice" in head or "commons clause" in head:
        return _VARIANT
    if "above copyright notice and this permission notice shall be included" in head:
        return "MIT"
    return "MIT-0" if "the software is provided as is" in head else _VARIANT


def _apache(head: str) -> str | None:
    full = "apache license version 2.0, january 2004" in head
    short = "licensed under the apache license, version 2.0" in head
    return None if not (full or short) else _VARIANT if "llvm exceptions" in head or "commons clause" in head else "Apache-2.0"


def _bsd(head: str) -> str | None:
    if "redistribution and use in source and binary forms" not in head:
        return None
    if "advertising materials" in head or "no express or implied licenses to any party s patent" in head:
        return _VARIANT
    return "BSD-3-Clause" if "neither the name" in head or "may not be used to endorse" in head else "BSD-2-Clause"


def _gnu(head: str) -> str | None:
    found = _GNU.search(head[:1000])
    if not found:
        return None
    kind, version = found.group(1) or "", found.group(2)
    return f"{ {'lesser ': 'L', 'library ': 'L', 'affero ': 'A'}.get(kind, '') }GPL-{version if '.' in version else version + '.0'}"


def _creative_commons(head: str) -> str | None:
    if "cc0 1.0 universal" in head[:300]:
        return "CC0-1.0"
    found = _ATTRIBUTION.search(head[:1000])
    if not found:
        return None
    commercial, works, version, _ = found.groups()
    terms = {None: "", "-noderivatives": "-ND", "-noderivs": "-ND", "-sharealike": "-SA"}[works]
    return f"CC-BY{'-NC' if commercial else ''}{terms}-{version}"


def _short(head: str) -> str | None:
    if "this is free and unencumbered software released into the public domain" in head:
        return "Unlicense"
    if "mozilla public license version 2.0" in head[:300]:
        return "MPL-2.0"
    isc = "permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted"
    return ("ISC" if "provided that the above copyright notice" in head else "0BSD") if isc in head else None
