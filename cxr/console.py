"""What the commands share: exit codes, error lines, and numbers as people read them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, Any, TextIO

from cxr.errors import CxrError, UsageError

if TYPE_CHECKING:
    from tqdm import tqdm

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def run_command(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Calls a subcommand's `main(argv)`; an expected error becomes one line on stderr."""
    try:
        return main(argv)
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        sys.stderr.close()
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def progress_bar(
    work: int | Sized | None, description: str, quiet: bool = False, file: TextIO | None = None, **options: Any
) -> tqdm:
    """A progress bar on standard error; every ten seconds only where nobody watches a terminal.

    Args:
      work: how much there is to do, None where that is not known; or what to go through.
      description: what is being done.
      quiet: show nothing.
      file: stream to write to instead.
      options: for `tqdm`, such as `unit`.
    """
    from tqdm import tqdm  # here, so that `cxr --help` need not load it

    every = 0.1 if (file or sys.stderr).isatty() else 10.0
    if isinstance(work, Sized):
        options["iterable"], work = work, len(work)
    return tqdm(total=work, desc=description, disable=quiet, file=file, mininterval=every, smoothing=0.1, **options)


def format_bytes(count: float) -> str:
    """`1536` as `1.5 KB`, in powers of 1024."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TB"


def format_seconds(seconds: float) -> str:
    """`95` as `1m35s`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
