"""What an unknown key or value was meant to be: by the words of other toolkits first, then by spelling, else nothing."""

import difflib
import functools
import re

from phalanx.configs.messages import synonyms
from phalanx.configs.schema import keys

_ALL = " `phalanx config --keys` lists all keys."


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(key.name for key in keys())


def override(argument: str) -> str:
    """A sentence, with a blank before it, about an argument that was meant as `key=value`, such as one with dashes."""
    match = re.fullmatch(r"[-+~]*([A-Za-z_]\w*(?:[.:/][\w-]+)*)(=?)(?s:.*)", argument[:1000])
    if match is None:
        return ""
    name = re.sub("[:/]", ".", match[1])
    has_dashes = argument[0] in "-+~"
    known = name in _names()
    if not known and not (has_dashes and (match[2] or "Did you mean" in key(name))):
        return ""
    return f" Overrides are written as {name if known else 'train.steps'}=VALUE, without dashes and blanks."


def _plain(word: str) -> str:
    return word[:100].lower().replace("-", "_").strip()


def key(unknown: str) -> str:
    """A sentence, with a blank before it, that names the key that was meant, or says where all are."""
    word = _plain(unknown)
    section, _, last = word.rpartition(".")
    for spoken in (word, last):
        if spoken in synonyms.KEYS:
            return f" Did you mean {_listed(synonyms.KEYS[spoken])}?"
        if spoken in synonyms.ELSEWHERE:
            return f" {synonyms.ELSEWHERE[spoken]}"
    translated = f"{synonyms.SECTIONS.get(section, section)}.{last}"
    if translated in _names():
        return f" Did you mean {translated}?"
    same = [name for name in _names() if name.rpartition(".")[2] == last]
    if len(same) == 1:
        return f" Did you mean {same[0]}?"
    if (close := _spelt(word, section, last)) is not None:
        return f" Did you mean {close}?"
    return f" Its section here is {synonyms.SECTIONS[word]}." if word in synonyms.SECTIONS else _ALL


def _spelt(word: str, section: str, last: str) -> str | None:
    """The key that is spelt nearly so: one of the same section, or of one that is spelt so, else of all; or a section."""
    sections = {name.rpartition(".")[0] for name in _names()}
    if section and section not in sections and (near := difflib.get_close_matches(section, sections, n=1, cutoff=0.75)):
        section = near[0]
    beside = {name.rpartition(".")[2]: name for name in _names() if name.rpartition(".")[0] == section}
    if close := difflib.get_close_matches(last, beside, n=1, cutoff=0.75):
        return beside[close[0]]
    if "." not in word and (close := difflib.get_close_matches(word, sections - {""}, n=1, cutoff=0.75)):
        return close[0]
    by_word: dict[str, list[str]] = {}
    for name in _names():
        by_word.setdefault(name.rpartition(".")[2], []).append(name)
    close = [w for w in difflib.get_close_matches(last, by_word, n=1, cutoff=0.85) if len(by_word[w]) == 1]
    return by_word[close[0]][0] if close else None


def value(key: str, given: str) -> str:
    """A sentence, with a blank before it, about a value in the words of another toolkit; nothing where it is not known."""
    word = _plain(given)
    there = synonyms.VALUES.get(key, {}).get(word)
    note = synonyms.VALUE_NOTES.get((key, word))
    meant = f" Did you mean {_listed(there)}?" if there else ""
    return meant + (f" {note}" if note else "")


def network(name: str, key: str = "model.name") -> str:
    """The same for a network's name, which may be one of timm's, or hold that of its backbone."""
    word = _plain(name)
    if meant := value("model.name", name):
        return meant
    if word.startswith(synonyms.TIMM):
        return f" timm has networks of this family: {key}=timm/{word}."
    parts = re.fullmatch(r"(\w+?\+?)_((?:wide_)?(?:resnet|resnext|vgg)\w+?)(?:_fpn)?(?:_v2)?", word)
    if key == "model.name" and parts and parts[1] in synonyms.WITH_BACKBONE:
        return f" Did you mean model.name={synonyms.WITH_BACKBONE[parts[1]]} model.backbone={parts[2]}?"
    return ""


def _listed(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
