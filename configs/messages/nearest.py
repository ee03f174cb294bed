"""Suggestions for unknown keys and values: by other toolkits' synonyms first, then by spelling."""

import difflib
import functools
import re
from collections.abc import Iterable

from phalanx.configs.messages import synonyms
from phalanx.configs.schema import keys

NONE = ("none", "null", "nil", "off", "false", "no")
"""What other toolkits write where a key is left open, which is null here."""

# The key of a section that one word for the whole section means.
_CHOOSES = {
    "dist": "dist.strategy", "optim": "optim.name", "model": "model.name", "data": "data.name", "task": "task.name",
    "loss": "loss.name", "schedule": "schedule.name", "slurm": "slurm.partition",
}  # fmt: skip
_ALL = " `phalanx config --keys` lists all keys."


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(key.name for key in keys())


def override(argument: str) -> str:
    """A sentence, with a leading blank, about an argument intended as `key=value`, such as one with dashes."""
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
    """A sentence, with a leading blank, that suggests the intended key, or the list of all."""
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
    """The key of similar spelling: in the same section, or in a section of similar spelling, else in all; or a section."""
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
    """A sentence, with a leading blank, about another toolkit's name of a value; empty if unknown."""
    word = _plain(given)
    there = synonyms.VALUES.get(key, {}).get(word)
    note = synonyms.VALUE_NOTES.get((key, word))
    suggestion = f" Did you mean {_listed(there)}?" if there else ""
    return suggestion + (f" {note}" if note else "")


def of_section(section: str, given: object) -> str:
    """A sentence, with a blank before it, for a section that is given one word: the key that chooses in it."""
    key = _CHOOSES.get(section)
    if key is None or not isinstance(given, str) or not re.fullmatch(r"[A-Za-z][\w./+-]{0,99}", given) or given.lower() in NONE:
        return ""
    there = synonyms.VALUES.get(key, {}).get(_plain(given), (given,))
    return f" Did you mean {_listed(tuple(f'{key}={word}' for word in there))}?"


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower()).replace("plus", "+")


def _in_other_form(name: str, key: str, known: Iterable[str]) -> str:
    """A name of ours in the form of a file, a module or a hub: yolov8n.pt, torchvision.models.resnet18, DeepLabV3Plus."""
    last = re.sub(r"\.(pth?|yaml|yml|py|onnx|safetensors)$", "", re.split(r"[/:]|models\.", name)[-1])
    if name.startswith(("timm:", "timm.", "hf-hub:timm/", "hf_hub:timm/")):
        return f" Did you mean {key}=timm/{last.removeprefix('timm.').removeprefix('create_model')}?"
    ours = {_bare(each): each for each in known}
    if (there := ours.get(_bare(last))) is not None:
        return f" Did you mean {key}={there}?"
    base, dot, _ = last.partition(".")
    if dot and base in ours.values():
        return f" Did you mean {key}=timm/{last}, or {key}={base}?"
    zoo = re.match(r"(?i)(faster|mask)[-_]?rcnn[-_]r[-_]?(50|101)|(retinanet)[-_]r[-_]?(50|101)", last)
    if zoo and key == "model.name":
        network = f"{zoo[1].lower()}_rcnn" if zoo[1] else "retinanet"
        return f" Did you mean model.name={network} model.backbone=resnet{zoo[2] or zoo[4]}?"
    return ""


def network(name: str, key: str = "model.name", known: Iterable[str] = ()) -> str:
    """The same for a network's name, which may be one of timm's, or include its backbone's.

    Args:
        known: the names that there are.
    """
    if other := _in_other_form(name[:200], key, known):
        return other
    word = _plain(name)
    if suggestion := value("model.name", name):
        return suggestion
    if word.startswith(synonyms.TIMM):
        return f" timm has networks of this family: {key}=timm/{word}."
    parts = re.fullmatch(r"(\w+?\+?)_((?:wide_)?(?:resnet|resnext|vgg)\w+?)(?:_fpn)?(?:_v2)?", word)
    if key == "model.name" and parts and parts[1] in synonyms.WITH_BACKBONE:
        return f" Did you mean model.name={synonyms.WITH_BACKBONE[parts[1]]} model.backbone={parts[2]}?"
    return ""


def _listed(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
