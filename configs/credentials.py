"""Finds keys, tokens and passwords in text that would be written into a run directory; says their names, never their values."""

import re
from collections.abc import Iterator
from typing import Any

_HARMLESS = re.compile(r"(?i)|[$`<].*|true|false|yes|no|on|off|none|null|auto|[01]")
_ALWAYS = ("token", "password", "passwd", "passphrase", "secret", "apikey", "secretkey", "accesskey", "credentials")
_BEFORE_KEY = {"api", "access", "secret", "private", "auth", "encryption", "signing", "account", "master", "service", "license"}

_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|gh[oprsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{12,}"
    r"|sk-(?=[\w-]*\d)[\w-]{16,}|xox[abeprs]-[\w-]{10,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}"
    r"|wandb_v\d_\w{16,}|local-[0-9a-f]{40}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{16,}|-{5}BEGIN[A-Z ]* PRIVATE KEY-{5})"
)
_URL = re.compile(r"(?<![\w+.-])[A-Za-z][\w+.-]*://[^\s/:@]*:(?!\$)[^\s/@]+@")
_LONG = 20
# Quotes are taken away first: "X"=1 and X="1" are one to a shell.
_ASSIGNED = re.compile(r"(?<![\w$])([A-Za-z_][\w-]*)\]?(?:\s?\+?:?=\s?|:\s+)(?=([^\s;&|,]*))")
_GIVEN = re.compile(
    r"(?:(?<!\S)--?|\bsetenv\s+|\bset\s+-\w+\s+|\bconfigure\s+set\s+|\bprintf\s+-v\s+|\bread\s+(?:-\w+\s+)*)([A-Za-z_][\w-]*)"
    r"\s+(?:<<<\s*)?(?=([^\s;&|,-][^\s;&|,]*))"
)
_COMMANDS = (
    ("wandb login", r"\bwandb\s+login\b(?:\s+--host[\s=]\S+|\s+--?(?!-?host\b)[\w-]+(?:=\S+)?)*\s+(?:<<<\s*)?[^\s$`<>|&;#-]"),
    ("wandb login", r"\b(?:echo|printf)\s+(?:-\w+\s+)*[^\s$`|].*\|\s*(?:python\d?\s+-m\s+)?wandb\s+login"),
    ("a password", r"(?:\blogin\b.*|\bsshpass)\s-p\s*[^\s$`]"),
    ("a password", r"\b(?:curl|wget)\b.*\s(?:-u|--user)[\s=]*[^\s:$]+:[^\s$]"),
    ("an authorization", r"(?i)\bauthorization\W+(?:bearer|basic|token)\s+[^\s$`]"),
    ("a password", r"\bmachine\s+\S+.*\spassword\s+[^\s$`]"),
)


def found(text: str) -> str | None:
    """The name of the first key, token or password that a text sets or holds; None where there is none."""
    if (unmistakable := token(text)) is not None:
        return unmistakable
    plain = re.sub(r"[\"'\\]", "", text)
    for pattern in (_ASSIGNED, _GIVEN):
        for match in pattern.finditer(plain):
            if _is_secret(match[1], match[2]):
                return match[1]
    return next((name for name, pattern in _COMMANDS if re.search(pattern, plain)), None)


def token(text: str) -> str | None:
    """The same for what cannot be anything else: tokens in the form of a well-known service, a password in a URL."""
    if _URL.search(text):
        return "a password in a URL"
    return "a token" if _TOKENS.search(text) else None


def _is_secret(name: str, value: str) -> bool:
    """Whether what a name is set to is to be kept secret. `MONKEY=1`, `KEY_FRAMES=3` and `TOKEN=$OTHER` are not."""
    if _HARMLESS.fullmatch(value) or name in ("PWD", "OLDPWD"):
        return False
    words = [word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)]
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    is_path = re.fullmatch(r"(~|\.\.?)?/[\w./ ~-]+", value) is not None
    is_random = len(value) >= 16 or bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value))
    if last in ("key", "keys"):
        return not is_path and (before in _BEFORE_KEY or is_random)
    if last in ("pass", "pwd"):
        return not is_path and not value.isdecimal()
    if not last.endswith(_ALWAYS):
        return False
    if last.startswith("credential"):
        return not is_path
    return last not in ("token", "secret") or not re.fullmatch(r"\d{1,4}", value)


_REMEDY = "Remove it: a job gets the variables of the shell that submits it, and `wandb login` is done once for all runs."


def in_values(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for every key, token or password in a configuration, which is written into the run directory.

    Args:
        values: by key, as `schema.flat` gives them.
    """
    for key, value in values.items():
        for place, text in _texts(value, key):
            name = found(text) if key in ("slurm.setup", "slurm.extra") else _long_token(text) or _of_option(place, text)
            if name is not None:
                yield key, f"{place} holds {name}, which would be written into the run directory. {_REMEDY}"


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """All texts in a value, each with its place; that of a pair names it too, as NAME=VALUE."""
    if isinstance(value, dict):
        for name, below in value.items():
            written = place if found(name) else f"{place}.{name}"
            if isinstance(below, str):
                yield written, f"{name}={below}"
            else:
                yield from _texts(below, written)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _texts(item, f"{place}[{position}]")
    elif isinstance(value, str):
        yield place, value


def _long_token(text: str) -> str | None:
    """Names of folders and files may begin as short tokens do."""
    if _URL.search(text) or any(len(match[0]) >= _LONG for match in _TOKENS.finditer(text)):
        return token(text)
    return None


def _of_option(place: str, text: str) -> str | None:
    """Options of somebody's own class are often called `key` or `token`: only names that mean nothing else count."""
    name, separator, value = text.partition("=")
    if not separator or not place.endswith(f".{name}"):
        return None
    plain = name.lower().replace("-", "_")
    unmistakable = ("password", "passwd", "api_key", "apikey", "secret_key", "access_key", "access_token")
    return name if plain.endswith(unmistakable) and _is_secret(name, value) else None
