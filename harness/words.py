"""Numbers in words: percentages, points, bytes, seconds, p-values, and what a method with inline parameters is called."""

from __future__ import annotations

from collections.abc import Mapping


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage, without the sign.

    >>> percent(0.12345), percent(0.0198412, 2)
    ('12.3', '1.98')
    """
    return "" if value is None else f"{100 * value:.{digits}f}"


def points(value: float) -> str:
    """A difference of accuracies in signed percentage points.

    >>> points(0.0512), points(-0.01)
    ('+5.1', '−1.0')
    """
    text = f"{100 * value:+.1f}"
    return text.replace("-", "−")


def p_value(p: float) -> str:
    """
    >>> p_value(0.0321), p_value(0.00001), p_value(1.0)
    ('p = 0.032', 'p < 0.001', 'p = 1.0')
    """
    if p < 0.001:
        return "p < 0.001"
    return f"p = {max(p, 0.001):.2g}" if p < 0.995 else "p = 1.0"


def mebibytes(value: float) -> str:
    """
    >>> mebibytes(412.4), mebibytes(3.21), mebibytes(20480)
    ('412 MiB', '3.2 MiB', '20.0 GiB')
    """
    if value >= 10_000:
        return f"{value / 1024:.1f} GiB"
    return f"{value:.0f} MiB" if value >= 10 else f"{value:.1f} MiB"


def amount(size: float) -> str:
    """Bytes in the unit that reads best.

    >>> amount(512), amount(2048), amount(3 * 2**20)
    ('512 B', '2.0 KiB', '3.0 MiB')
    """
    if size < 1024:
        return f"{size:.0f} B"
    if size < 2**20:
        return f"{size / 1024:.1f} KiB"
    return mebibytes(size / 2**20)


def seconds(value: float) -> str:
    """
    >>> seconds(0.0009), seconds(0.034), seconds(12.34), seconds(75), seconds(7200)
    ('0.9 ms', '34 ms', '12 s', '75 s', '2.0 h')
    """
    if value == 0:
        return "0 s"
    if value < 0.1:
        return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.1f} ms"
    if value < 1:
        return f"{value:.2f} s"
    if value < 10:
        return f"{value:.1f} s"
    if value < 600:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 3600 else f"{value / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "seed"), plural(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def in_words(label: str, phrases: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A method label with inline parameters as words.

    phrases: method -> assignment -> what it means, from [words] of bench.toml. An assignment without a phrase says its value; what is
    switched off is said to be missing. A parameter ``name`` is what the user wants it to be called.

    >>> in_words("gvd")
    'gvd'
    >>> in_words("gvd[guidance=0,compose=2]", {"gvd": {"guidance=0": "unguided diffusion"}})
    'gvd: unguided diffusion, compose 2'
    >>> in_words("dm[augment=true,decay=none,iterations=50]")
    'dm: with augment, without decay, iterations 50'
    >>> in_words("stored[path=/sets/theirs.npz,name=theirs]")
    'theirs'
    """
    name, bracket, rest = label.partition("[")
    if not bracket:
        return label
    known = (phrases or {}).get(name, {})
    said = []
    for part in rest.removesuffix("]").split(","):
        key, _, value = (text.strip() for text in part.partition("="))
        if key == "name":
            return value
        said.append(known.get(f"{key}={value}") or _plainly(key.replace("_", " "), value))
    return f"{name}: {', '.join(said)}"


def _plainly(key: str, value: str) -> str:
    if value.lower() in ("0", "0.0", "false", "none"):
        return f"without {key}"
    return f"with {key}" if value.lower() == "true" else f"{key} {value}"
