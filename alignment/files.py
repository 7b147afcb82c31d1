"""Reading and writing files so that a mistake names its line and a failure leaves nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from alignment.errors import InputError

T = TypeVar("T")


def read_jsonl(path: Path, parse: Callable[[Any], T]) -> list[T]:
    """Parse each line of a JSONL file with `parse`. Blank lines are skipped.

    Raises `InputError` naming file and line where the file is missing, empty or malformed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist. Check the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; a JSONL file was expected.") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start}). Convert it to UTF-8."
        ) from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse(_parsed(line)))
        except RecursionError:
            raise InputError(f"{path}, line {number}: the JSON is nested too deeply.") from None
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error.msg}). Each line must hold one JSON object."
            ) from None
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    if not rows:
        raise InputError(f"{path} is empty. It needs at least one JSON object, one a line.")
    return rows


def _parsed(line: str) -> Any:
    """What `line` says in JSON; `InputError` where that is a number or a text that nothing can hold."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        raise
    except ValueError:
        raise InputError("a number has more than 4,000 digits. Correct it.") from None
    if "\\u" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(
                "a text holds half of a character (a lone surrogate). Take it out."
            ) from None
    return value


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all. Not-a-number is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The parsed file; `InputError` where it is missing or malformed."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Check the path.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None


def write_text(path: Path, text: str) -> None:
    """Replace `path` in one step: other processes see the old file or the new one, never a part."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".partial"
        )
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).chmod(0o644)
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk under `path` into an `InputError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"No space left while writing {path}. Nothing was half-written; free some space or choose another "
                "folder, then run the command again."
            ) from error
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ENOENT,
        ):
            raise InputError(
                f"Cannot write {path} ({error.strerror}). Choose a folder you may write to."
            ) from error
        raise


def data_folder() -> Path:
    """The folder `data/` that ships with Concord: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "data"
    return packaged if packaged.is_dir() else here.parent / "data"


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move into `folder` when the block ends well, and vanish when it does not."""
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=".", suffix=".partial"))
        try:
            yield scratch
            for path in scratch.iterdir():
                path.replace(folder / path.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
