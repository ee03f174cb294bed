"""`classes.txt`: the names of the classes, one per line, in the order of their numbers. No torch here."""

from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.data.files.text_file import lines, read_text, shown


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """The names in a folder's `classes.txt`; None if there is none.

    Raises:
        UserError: if the file is empty, or has a name twice.
    """
    path = folder / "classes.txt"
    if not path.is_file():
        return None
    names = [line.strip() for line in lines(read_text(path))]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UserError(f"{path}: the file is empty. Write the names of the classes, one per line.")
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            what = f"line {number + 1} is empty" if not name else f"{shown(name)} is on two lines"
            raise UserError(f"{path}: {what}. Write the name of each class once, one per line.")
    return tuple(names)
