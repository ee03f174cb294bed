"""One input: files below a folder, and what else a door is given. It can be kept as JSON, and replayed."""

import base64
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What may stand in place of a file's content.
FOLDER, LOOP, GONE = "folder", "loop", "gone"
Content = bytes | str  # bytes of a file; or one of the words above


@dataclass
class Case:
    """An input of a target.

    Attributes:
        files: content by path, relative to a folder that is empty before.
        given: what the door is given beside them, as JSON has it.
    """

    target: str
    files: dict[str, Content] = field(default_factory=dict)
    given: Any = None

    def dumps(self) -> str:
        """One line."""
        files = {
            path: content if isinstance(content, str) else {"base64": base64.b64encode(content).decode()}
            for path, content in self.files.items()
        }
        return json.dumps({"target": self.target, "files": files, "given": self.given})

    def holds(self, text: str) -> bool:
        """Whether the input itself says something: in a file, in any encoding, in a name, or in what is given."""
        encoded = [text.encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")]
        contents = [content for content in self.files.values() if isinstance(content, bytes)]
        return text in self.dumps() or any(word in content for word in encoded for content in contents)

    @classmethod
    def loads(cls, text: str) -> "Case":
        told = json.loads(text)
        files = {
            path: content if isinstance(content, str) else base64.b64decode(content["base64"])
            for path, content in told["files"].items()
        }
        return cls(told["target"], files, told["given"])

    def lay_out(self, folder: Path) -> None:
        """Writes the files; those whose names the file system does not take are left out."""
        for name, content in self.files.items():
            if "\0" in name or ".." in name.split("/") or name.startswith("/"):
                continue
            path = folder / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _put(path, content)
            except (OSError, UnicodeEncodeError):
                continue  # such as a name that is too long, or two that want to be file and folder


def _put(path: Path, content: Content) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == FOLDER:
        path.mkdir()
    elif content == LOOP:
        os.symlink(path.name, path)
