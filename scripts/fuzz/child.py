"""One case in a process of its own, with limits of memory and time, and what became of it as one of seven outcomes.

Everything is imported and warmed up once; each case is then a fork of that process, which takes milliseconds. It can run out
of memory, hang, or be killed without harm to the others.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import equinet

PACKAGE = str(Path(equinet.__file__).parent)
# What a case may come to. The first two are as it should be.
RIGHT = "right"  # the value that the input says
CLEAR = "clear"  # one error of a kind that a user can mend, which names the file
VAGUE = "vague"  # such an error, but without the file's name, or several lines or pages long
TRACEBACK = "traceback"  # an error of another kind, as a bug of ours gives
HANG = "hang"
DEATH = "death"  # by a signal
WRONG = "wrong"  # a value that the input does not say, without a word
OUTCOMES = (RIGHT, CLEAR, VAGUE, TRACEBACK, HANG, DEATH, WRONG)

LONGEST_MESSAGE = 1500
LARGEST_ANSWER = 1 << 20


class Wrong(Exception):
    """A case gave a value that its input does not say."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: one of ``OUTCOMES``, and in words what is alike in all cases of one fault."""

    kind: str
    what: str = ""
    message: str = ""


def run_case(case: Callable[[], object], file: Path, *, seconds: int, bytes_more: int) -> Outcome:
    """Run a case in a fork of this process.

    Args:
        case: Raises :class:`Wrong` if a value is not what the input says; what it raises else is judged here.
        file: File that a clear error names.
        seconds: Wall time after which it hangs.
        bytes_more: Address space that it may take beyond what this process has.
    """
    with tempfile.TemporaryFile() as stack:  # where it was when it was ended
        answer, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(answer)
            try:
                faulthandler.enable(stack)
                faulthandler.register(signal.SIGALRM, stack, chain=True)
                signal.alarm(seconds)  # without a handler of Python's: ends the process inside of any library too
                limit = _address_space() + bytes_more
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                os.write(write, json.dumps(asdict(_judged(case, file))).encode()[:60_000])
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(answer, "rb") as pipe:
            said = pipe.read(LARGEST_ANSWER)
        _, status = os.waitpid(child, 0)
        stack.seek(0)
        where = _place_in_dump(stack.read().decode(errors="replace"))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return Outcome(HANG, f"no end in {seconds} s in {where}")
        return Outcome(DEATH, f"{signal.Signals(number).name} in {where}")
    return Outcome(**json.loads(said)) if said else Outcome(DEATH, "ended without an answer")


def outcome_of(error: BaseException, file: Path) -> Outcome:
    """Judge what a case raised."""
    message = str(error)
    what = f"{type(error).__name__} in {_place(error)}"
    if not isinstance(error, (ValueError, TypeError, OSError)):
        return Outcome(TRACEBACK, what, message[:LONGEST_MESSAGE])
    if isinstance(error, TypeError) and not _raised_by_us(error):
        return Outcome(TRACEBACK, what, message[:LONGEST_MESSAGE])
    fault = complaint_about(message, file)
    return Outcome(VAGUE, f"{what}: {fault}", message[:LONGEST_MESSAGE]) if fault else Outcome(CLEAR, what, message)


def complaint_about(message: str, file: Path) -> str:
    """What keeps a message from being one clear sentence about a file; empty if nothing does."""
    if file.name not in message:
        return "does not name the file"
    if len(message) > LONGEST_MESSAGE:
        return f"longer than {LONGEST_MESSAGE} characters"
    if any(ord(letter) < 32 and letter not in "\n\t" for letter in message):
        return "control characters of the file in the message"
    return "several lines" if message.count("\n") > 1 else ""


def _judged(case: Callable[[], object], file: Path) -> Outcome:
    try:
        case()
    except Wrong as wrong:
        return Outcome(WRONG, str(wrong).partition(":")[0], str(wrong)[:LONGEST_MESSAGE])
    except MemoryError as error:
        what = f"MemoryError in {_place(error)}"
        return Outcome(CLEAR if file.name in str(error) else TRACEBACK, what, str(error)[:LONGEST_MESSAGE])
    except BaseException as error:
        return outcome_of(error, file)
    return Outcome(RIGHT)


def _place(error: BaseException) -> str:
    """The innermost function of equinet that an error passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)]
    if not frames:
        return "no code of equinet"
    return f"{os.path.relpath(frames[-1].filename, PACKAGE)}:{frames[-1].name}"


def _place_in_dump(dump: str) -> str:
    """The same from what :mod:`faulthandler` wrote, innermost first."""
    frames = re.findall(rf'File "{re.escape(PACKAGE)}/(.+)", line \d+ in (\S+)', dump)
    return ":".join(frames[0]) if frames else "no code of equinet"


def _raised_by_us(error: BaseException) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(PACKAGE) and (last.line or "").lstrip().startswith("raise")


def _address_space() -> int:
    pages: Any = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()
