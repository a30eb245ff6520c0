"""The driver's side of a stage: what it says on the terminal."""

import _thread
import logging
import threading

import pytest

from beam_jobs.execution.progress import run_with_bar


def test_threads_that_fail_after_an_interruption_say_nothing(tmp_path, capfd, monkeypatch, request):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has its own; this puts it back
    request.addfinalizer(lambda: logging.getLogger("apache_beam").setLevel(logging.NOTSET))
    gone = threading.Event()

    def lose_a_worker():
        gone.wait(60)
        logging.getLogger("apache_beam.runners").error("Failed to read inputs")
        raise RuntimeError("Worker subprocess exited")

    threads = [threading.Thread(target=lose_a_worker) for _ in range(2)]

    def work():
        for thread in threads:
            thread.start()
        _thread.interrupt_main()
        gone.wait(60)

    with pytest.raises(KeyboardInterrupt):
        run_with_bar(work, tmp_path / "progress", 1, "writing", tmp_path / "beam.log", True)
    gone.set()
    for thread in threads:
        thread.join()
    assert capfd.readouterr().err == ""
