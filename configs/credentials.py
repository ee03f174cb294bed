"""Finds keys, tokens and passwords in text that would be written into a run directory; never reports their values."""

import re
from collections.abc import Iterator
from typing import Any

_HARMLESS = re.compile(r"(?i)|[$`<].*|true|false|yes|no|on|off|none|null|auto|[01]|x+|\*+|\.+|your\W?.*|change_?me")
_ALWAYS = ("token", "password", "passwd", "passphrase", "secret", "apikey", "secretkey", "accesskey", "credentials")
_BEFORE_KEY = {"api", "access", "secret", "private", "auth", "encryption", "signing", "account", "master", "service", "license"}

_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{16,}|gh[oprsu]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|gl(?:pat|ptt|dt|rt|soat|cbt)-[\w-]{12,}"
    r"|sk-(?=[\w-]{0,99}?(?=[A-Za-z]{0,60}\d)[A-Za-z0-9]{16})[\w-]{16,}|xox[abeprs]-[\w-]{10,}|A[KS]IA[0-9A-Z]{16}|AIza[\w-]{30,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}|wandb_v\d_\w{16,}|local-[0-9a-f]{40}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{16,}"
    r"|dckr_pat_[\w-]{16,}|gsk_[A-Za-z0-9]{24,}|r8_[A-Za-z0-9]{24,}|nvapi-[\w-]{24,}|xai-[A-Za-z0-9]{24,}|[prs]k_live_\w{16,}"
    r"|tskey-[a-z]+-[\w-]{16,}|hvs\.[\w-]{20,}|dop_v1_\w{20,}|lin_api_\w{20,}|shpat_[0-9a-f]{32}|ATATT3\w{16,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|ya29\.[\w-]{20,}|-{5}BEGIN[A-Z ]{0,40} PRIVATE KEY-{5})"
)
_URL = re.compile(
    r"(?<![\w+.-])(?:[A-Za-z][\w+.-]*://[^\s/:@]*:(?!\$)[^\s/@]+@"
    r"|https?://(?:(?=[A-Za-z_-]*\d)(?=[\d_-]*[A-Za-z])[\w-]{16,}@|hooks\.slack\.com/services/\w|[^\s/]+/t/\w\w-[0-9a-f]{8}-))"
)
_LONG = 20
_RANDOM = r"(?=[^\s\d]{0,99}\d)(?=[^\sA-Za-z]{0,99}[A-Za-z])[^\s$`/;&|,]{8,200}"  # neither a path nor a word
# To a shell "X"=1, X="1" and X=$'1' are one, and so are X=1, X=${X:-1}, X=$(echo 1) and X=`echo 1`.
_GIVES = re.compile(
    r"(?<==)(?:\$\{\w+:?[-=+](?=[^$`}])|(?:\$\(|`)\s*(?:(?:echo|printf)\s+(?:[-%]\S+\s+)*|base64\s+-\S+\s+<<<\s*)(?=[^\s$`]))"
)
_ASSIGNED = re.compile(r"(?<![\w$])([A-Za-z_][\w-]{0,99})\]?(?:\s?\+?:?=\s?(?=([^\s;&|,]{0,200}))|:\s+(?=(" + _RANDOM + ")))")
_GIVEN = re.compile(
    r"(?:(?<!\S)--?|\bsetenv\s+|\bset\s+-\w+\s+|\bconfigure\s+set\s+(?:\w+\.)*|\bprintf\s+-v\s+|\bread\s+(?:-\w+\s+)*)([A-Za-z_][\w-]{0,99})"
    r"\s+(?:<<<\s*)?(?=([^\s;&|,-][^\s;&|,]{0,200}))"
)
_GAP = r".{0,200}"  # everything is bounded, or a long line would take minutes
_LOGIN = r"(?:\blogin\b|\bsudo\s+-S|\bkinit\b|--password-stdin)"
_TOLD = r"\b(?:echo|printf|cat\s+<<<)\s+(?:[-%]\S+\s+)*"
_COMMANDS = (
    ("wandb login", r"\bwandb\s+login\b(?:\s+--host[\s=]\S+|\s+--?(?!-?host\b)[\w-]+(?:=\S+)?)*\s+(?:<<<\s*)?"
     r"(?!\d*[<>])[^\s$`|&;#-]"),
    ("a password", rf"{_TOLD}[^\s$`|<>][^|]{{0,200}}\|{_GAP}{_LOGIN}"),
    ("a password", rf"{_LOGIN}{_GAP}\s<<<\s*[^\s$`]"),
    ("a password", rf"\blogin\({_RANDOM}\)"),
    ("a password", rf"{_TOLD}{_RANDOM}\s*>+\s*\S*(?:token|key|secret|passw\w*|netrc|pgpass|credentials?)\b"),
    ("a password", rf"(?:\blogin\b{_GAP}|\bsshpass)\s-p\s*(?!\d{{1,5}}\b)[^\s$`]"),
    ("a password", rf"\b(?:(?:mysql\w*|7z\w?)\b{_GAP}\s-p|(?:un)?zip\b{_GAP}\s-P\s*|openssl\b{_GAP}\s-k\s+)[^\s$`]"),
    ("a password", rf"\b(?:curl|wget)\b{_GAP}\s(?:-u|--user)[\s=]*[^\s:$]+:[^\s$]|\s-U\s*[^\s%$]+%[^\s$]"),
    ("an authorization", r"(?i)\bauthorization\W+(?:bearer|basic|token)\s+[^\s$`]"),
    ("a password", rf"\b(?:machine|login)\s+\S+{_GAP}\spassword\s+[^\s$`]|^\s*password\s+[^\s$`]+\s*$"),
    # As in commands of rclone, dvc, git and npm: a name, a blank, and a random text.
    ("a password", rf"(?i)(?:secret_access_key|secret_key|api_?key|auth_?token|access_token|passw(?:or)?d)\s+{_RANDOM}"),
)  # fmt: skip


def found(text: str) -> str | None:
    """The name of the first key, token or password that a text sets or holds; None without one."""
    if (unmistakable := token(text)) is not None:
        return unmistakable
    plain = re.sub(r"\$(?=[\"'])|[\"'\\]", "", text)
    for pattern, read in ((_ASSIGNED, plain), (_ASSIGNED, _GIVES.sub("", plain)), (_GIVEN, plain)):
        for match in pattern.finditer(read):
            if _is_secret(match[1], match[match.lastindex or 2]):
                return match[1]
    return next((name for name, pattern in _COMMANDS if re.search(pattern, plain)), None)


def token(text: str) -> str | None:
    """The same for unambiguous ones only: tokens in the form of a well-known service, a password in a URL."""
    if _URL.search(text):
        return "a password in a URL"
    return "a token" if _TOKENS.search(text) else None


def _is_secret(name: str, value: str) -> bool:
    """Whether the value of a name is secret. `MONKEY=1`, `KEY_FRAMES=3` and `TOKEN=$OTHER` are not."""
    if _HARMLESS.fullmatch(value) or name in ("PWD", "OLDPWD"):
        return False
    words = [word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)]
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    is_path = re.fullmatch(r"(~|\.\.?)?/[\w./ ~-]+", value) is not None
    is_random = len(value) >= 16 or re.match(_RANDOM, value) is not None
    if last in ("key", "keys"):
        return not is_path and (before in _BEFORE_KEY or is_random)
    if last in ("pat", "sig", "signature") or (last.endswith("key") and len(value) >= _LONG):
        return not is_path and is_random
    if last in ("pass", "pwd", "pw", "dbpass"):
        return not is_path and not value.isdecimal()
    if not last.endswith(_ALWAYS):
        return False
    if last.startswith("credential"):
        return not is_path
    return last not in ("token", "secret") or not re.fullmatch(r"\d{1,4}", value)


_REMEDY = "Remove it: a job gets the variables of the submitting shell, and `wandb login` is needed only once."


def in_values(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for every key, token or password in a configuration, which is written into the run directory.

    Args:
        values: by key, from `schema.flat`.
    """
    for key, value in values.items():
        for place, text in _texts(value, key):
            name = found(text) if key in ("slurm.setup", "slurm.extra") else _long_token(text) or _assigned(text)
            if name is not None:
                yield key, f"{place} holds {name}, which would be written into the run directory. {_REMEDY}"


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """All strings in a value, each with its place, and named pairs also as NAME=VALUE."""
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
    """A long token in a text: names of folders and files may begin like short ones."""
    if _URL.search(text) or any(len(match[0]) >= _LONG for match in _TOKENS.finditer(text)):
        return token(text)
    return None


def _assigned(text: str) -> str | None:
    """Options of a user's own class are often called `key` or `token`: only unambiguous names count."""
    for match in _ASSIGNED.finditer(text):
        plain = match[1].lower().replace("-", "_")
        unmistakable = ("password", "passwd", "api_key", "apikey", "secret_key", "access_key", "access_token", "hf_token")
        if plain.endswith(unmistakable) and _is_secret(match[1], match[match.lastindex or 2]):
            return match[1]
    return None
