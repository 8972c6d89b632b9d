"""Files that are whole or not there: written beside their name, flushed to the disk, then renamed; and texts of any
system.

What a killed process has begun lies in a folder .NAME.part-xxxxxxxx beside the name. Its writer holds a lock in it,
which dies with the process: `clear_leftovers` takes away what nobody writes any more.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

BUNDLE_ROOT = Path(__file__).resolve().parents[2]
CONFIGS = BUNDLE_ROOT / "configs"

WRITER = ".writer"  # the lock of who writes a partial file
LEFTOVER = re.compile(r"\..+\.part-[a-z0-9_]{8}", re.DOTALL)  # folder of a partial file, see tempfile
MOST_BYTES = 200  # of a file's name that its partial folder repeats
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # how libraries in Rust, such as safetensors, tell it
FULL, LOCKED = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM)


class WriteError(OSError):
    """A file cannot be written: its name, the system's reason and the remedy.

    Args:
        path: of the file or folder.
        number: the system's.
    """

    def __init__(self, path: str | Path, number: int) -> None:
        remedy = "look at this disk and folder"
        if number in FULL:
            remedy = "free space on this disk"
        elif number in LOCKED:
            remedy = "make the folder writable, or choose another one"
        super().__init__(number, f"{path} cannot be written ({os.strerror(number)}): {remedy}.")

    def __str__(self) -> str:
        return str(self.strerror)


def bundle_root() -> str:
    """The folder of this bundle, "." if it is the current one: `bundle_root` of inference.json, unless it is given."""
    is_here = Path("scripts").resolve() == BUNDLE_ROOT / "scripts"
    return "." if is_here else str(BUNDLE_ROOT)


def bundle_version() -> str:
    """The version in configs/metadata.json."""
    return json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["version"]


@contextmanager
def naming_path(path: str | Path) -> Iterator[None]:
    """A block that writes a file or makes a folder; what the system says against it comes as a WriteError.

    Args:
        path: file or folder that is written; an error about another one goes on as it is.

    Raises:
        WriteError: the disk is full, the folder is read-only, and so on.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = _system_error(error)
        if number is None or not _is_near(getattr(error, "filename", None), Path(path)):
            raise
        raise WriteError(path, number) from error


def _system_error(error: BaseException | None) -> int | None:
    """The system's number behind an error; torch.save raises a RuntimeError over it."""
    if isinstance(error, RuntimeError):
        error = error.__context__
    if isinstance(error, OSError):
        return error.errno
    told = SYSTEM_ERROR.search(str(error))
    return int(told[1]) if told else None


def _is_near(filename: object, path: Path) -> bool:
    """Whether an error's file is `path`, in it, above it, or its partial file; one without a name is."""
    if not isinstance(filename, (str, os.PathLike)):
        return True
    other, path = Path(filename).absolute(), path.absolute()
    if other == path or other in path.parents or path in other.parents:
        return True
    return any(LEFTOVER.fullmatch(part) for part in other.parts)


@contextmanager
def atomic_path(path: str | Path, flush: bool = True, drafts: Path | None = None) -> Iterator[Path]:
    """A path beside `path` to write to, with its suffix; it takes the place of `path` when the block ends without an
    error.

    Args:
        path: of the file; its folder is made.
        flush: wait until the disk has it, so that it is whole after a crash of the machine too, not only of the
            process.
        drafts: an `own_folder` on the same disk to write in, for many files one after the other; None makes one.

    Raises:
        WriteError: see `naming_path`.
    """
    path = Path(path)
    with naming_path(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext(drafts) if drafts else own_folder(path) as folder:
            partial = folder / path.name
            yield partial
            if flush:
                with open(partial, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)


def require_writable(path: str | Path) -> None:
    """Refuse a file that could not be written later; makes nothing that stays.

    Raises:
        WriteError: it could not.
    """
    path = Path(path).absolute()
    folder = next(parent for parent in path.parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WriteError(path, error.errno or errno.EIO) from error


@contextmanager
def own_folder(path: Path) -> Iterator[Path]:
    """A folder beside a path that `clear_leftovers` of other processes leaves alone while this one is in the block."""
    prefix = f".{os.fsdecode(os.fsencode(path.name)[:MOST_BYTES])}.part-"
    while True:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
        lock = FileLock(folder / WRITER, timeout=0)
        try:
            if _acquire(lock):
                yield folder
                return
        finally:
            try:
                _remove(folder, lock)
            except BaseException:  # SIGTERM may come here, once
                _remove(folder, lock)
                raise


def _acquire(lock: FileLock) -> bool:
    """Whether a lock is held now, and its folder was not cleared before."""
    try:
        lock.acquire()
    except (Timeout, FileNotFoundError):
        return False
    return Path(lock.lock_file).exists()


def _remove(folder: Path, lock: FileLock) -> None:
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(folder: str | Path, deep: bool = False) -> int:
    """Take away the partial files that killed processes have left; how many they were.

    Args:
        folder: of the files; one that is not there has none.
        deep: in its subfolders too.
    """
    folders = [path for path in Path(folder).glob("**/.*" if deep else ".*") if LEFTOVER.fullmatch(path.name)]
    return sum(_clear(path) for path in folders if path.is_dir() and not path.is_symlink())


def _clear(folder: Path) -> bool:
    """Whether a folder was a partial file's and is gone; one in use stays, and one that may not be removed."""
    try:
        if not (folder / WRITER).exists():
            folder.rmdir()  # an empty one, of a process that was killed before it had its lock
            return True
        with FileLock(folder / WRITER, timeout=0):
            shutil.rmtree(folder)
        return True
    except OSError:  # Timeout is one
        return False


def read_text(path: str | Path) -> str:
    """A text file as Unicode, whichever system wrote it: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        ValueError: another encoding.
    """
    content = Path(path).read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from None
