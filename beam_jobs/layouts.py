"""`cxr layouts`: the public data sets that `cxr preprocess` recognises."""

from __future__ import annotations

import textwrap

from beam_jobs.sources.known_layouts import known_layouts
from cxr.command import Command, Given
from cxr.console import EXIT_OK, run_command
from cxr.options import Options, options

_WIDTH = 100


@options
class LayoutsOptions(Options):
    """`cxr layouts` has no options."""


def run(given: Given) -> int:
    """Prints the known layouts with their sources."""
    for layout in known_layouts().values():
        print(f"{layout.name}: {layout.title}")
        for text in (layout.source, layout.about):
            print(textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False))
        print()
    print("`cxr preprocess --input DIR --output DIR` recognises them, zipped or unpacked, partly downloaded too.")
    print("--layout NAME forces one, --layout none forbids it, and --layout FILE.toml is one of your own.")
    return EXIT_OK


COMMAND = Command(
    "layouts", "Lists the public data sets that `cxr preprocess` recognises, with their sources.", run, LayoutsOptions,
    "A layout is a file of options, see docs/data-sets.md; those listed lie in beam_jobs/sources/layouts.",
)  # fmt: skip
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))
