"""Explanations of PyYAML's errors: what is wrong with a line, and what to write."""

import re

import yaml

_QUOTES = "Put text that holds it in quotes"
# (PyYAML's message, whether the place is where the construct begins, our explanation). The first match counts.
_SENTENCES = (
    (r"mapping values are not allowed", False, "there is a second `: `, the line is indented unlike those above, or the line "
     "above has no blank after its colon. Put text that holds `: ` in quotes, or correct the line"),
    (r"could not find expected ':'", True, "this is not `key: value`. Write a key, a colon, a blank and a value; put text of "
     "several lines in quotes"),
    (r"sequence entries are not allowed|expected <block end>, but found '-'", False, "a `- ` is where no list can begin. "
     "Begin the list in a line of its own, below its key, or align it with the lines above"),
    (r"mapping keys are not allowed", False, f"a `? ` is where no key can be. {_QUOTES}"),
    (r"character '\\t' that cannot start", False, "it is indented by a tab. YAML accepts only blanks: replace it"),
    (r"cannot start any token", False, "a value cannot begin with %, @ or `. Put it in quotes"),
    (r"unknown escape character|double-quoted.*hexadecimal numbers", False, "in double quotes a backslash begins an escape. "
     "Use single quotes, as in 'C:\\data'"),
    (r"scanning a quoted scalar", True, "the quote that begins here does not end. Close it"),
    (r"scanning a quoted|scanning a double-quoted", True, "the quotes are broken. Close them"),
    (r"scanning an (alias|anchor)", True, "a value that begins with * or & means an alias. Put it in quotes, as in '*.bias'"),
    (r"undefined alias", False, "there is no anchor of this alias. Put a value that begins with * in quotes, as in '*.bias'"),
    (r"duplicate anchor", False, "the anchor occurs twice. Give one of them another name"),
    (r"flow (sequence|mapping)", True, "the bracket that opens here is not closed, or a comma is missing in it. Close it"),
    (r"flow node", False, "a value is missing between brackets or commas. Write it, or remove the comma"),
    (r"block node", False, "a value cannot begin with a comma or a closing bracket. Put it in quotes"),
    (r"block scalar", True, "the sign | or > begins a text of several lines, and must be alone in its line. Put the value in "
     "quotes if it is intended as text"),
    (r"(tag|directive|YAML|expected URI|tag handle|non-specific)", False, "a value cannot begin with ! or a line with %, "
     "which are reserved in YAML. Put it in quotes"),
    (r"expected '<document start>'|another document|single document|document separator", False, "a second document begins "
     "here. Keep one, and remove `---` or `...`"),
    (r"expected <block end>|block (mapping|collection)", False, "the line is indented unlike those above, or something is "
     "left over in it. Align it"),
    (r"for merging", False, "`<<` takes an alias of a section. Name one, or remove the line"),
)  # fmt: skip
OTHERWISE = "it is not what YAML expects here. Compare it with a recipe of configs/recipes/"


def explain(error: yaml.MarkedYAMLError) -> tuple[int | None, str]:
    """The line of an error, and its explanation."""
    message = f"{error.context or ''} | {error.problem or ''}"
    for pattern, at_the_beginning, sentence in _SENTENCES:
        if re.search(pattern, message):
            marks = (error.context_mark, error.problem_mark) if at_the_beginning else (error.problem_mark, error.context_mark)
            mark = next((mark for mark in marks if mark is not None), None)
            return (None if mark is None else mark.line + 1), sentence
    mark = error.problem_mark or error.context_mark
    return (None if mark is None else mark.line + 1), OTHERWISE
