"""What the commands share."""

from __future__ import annotations

from cxr.console import run_command


def test_an_interrupted_command_says_no_more_than_that(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert run_command(main, []) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
