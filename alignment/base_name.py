"""The base model by its name: what can be said of it before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from alignment.errors import InputError

DEMO = "demo"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SIZE = re.compile(r"\d+(\.\d+)?[bB]")


def check_base_name(name: str, workspace: Path) -> None:
    """`InputError` where no run could load a base of this name; relative folders are those of the workspace.

    Whether a hub holds the id is not asked here.
    """
    if name == DEMO:
        return
    if not name.strip():
        raise InputError("Name a base model: a folder, a hub id such as Qwen/Qwen3-0.6B, or demo.")
    folder = workspace / name
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"The folder {name} holds no config.json, so it is no model. Name one that `save_pretrained` wrote."
            )
        return
    if _SIZE.fullmatch(name):
        raise InputError(
            f"{name} is a size for `concord plan`, no model that can be loaded. Name a folder or a hub id."
        )
    if not _HUB_ID.fullmatch(name):
        raise InputError(
            f"There is no folder {name}, and a hub id looks like Qwen/Qwen3-0.6B. Check the path or the id."
        )
