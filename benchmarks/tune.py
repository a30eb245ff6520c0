"""What a search costs beside its training, and how many workers one chief can keep busy.

    python benchmarks/tune.py --data DIR [--trials N] [--epochs N] [--json FILE]
    python benchmarks/tune.py --load [--json FILE]

With --data: the same trials, in the same order, bare (one process that trains one after the other), by a search with
one worker that has all cores, and by one with two workers that share them. Ratios are of the time from the first
trial's beginning to the last one's end, and of the whole command; the bare one's whole has TensorFlow's loading in it
too.

With --load: dummy trials, which train nothing and end at once, by 1 to 64 workers over real sockets, from a process of
their own: questions that the chief answers in a second, and how long an answer takes. Each trial is one `next`, three
`report`s with an epoch each and one `end`, all on disk when answered.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

WORKERS = (1, 2, 4, 8, 16, 32, 64)
EPOCHS = 3
SECONDS = 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--trials", type=int, default=6, metavar="N")
    parser.add_argument("--epochs", type=int, default=2, metavar="N")
    parser.add_argument("--oracle", default="random", choices=("random", "hyperband"), help="of --load")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--bare", nargs=3, metavar=("PROJECT", "DATA", "RUNS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        return bare(*map(Path, arguments.bare))
    if not arguments.load and arguments.data is None:
        parser.error("give --data, --load or both")
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is not None:
            found["trials"] = compare_trials(Path(folder), arguments.data, arguments.trials, arguments.epochs)
        if arguments.load:
            found["load"] = {"oracle": arguments.oracle, "rows": load(Path(folder), arguments.oracle)}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def compare_trials(folder: Path, data: Path, trials: int, epochs: int) -> dict[str, Any]:
    """The same trials three times."""
    space = folder / "space.json"
    fix = {"model": "cnn-separable", "image_size": 96, "augment": "light", "batch_size": 32, "blocks": 3, "width": 24,
           "convolutions": 1, "block": "separable", "kernel": 3}  # fmt: skip
    space.write_text(json.dumps({"fix": fix}))
    found: dict[str, Any] = {"trials": trials, "epochs": epochs, "ways": {}}
    rows = []
    for workers in (1, 2):
        project = folder / f"search{workers}"
        begun = time.monotonic()
        command = [
            "--data", data, "--project", project, "--space", space, "--oracle", "random", "--max-trials", str(trials),
            "--epochs", str(epochs), "--pruner", "none", "--workers", str(workers), "--quiet",
        ]  # fmt: skip
        subprocess.run([sys.executable, "-m", "tuner.tune", *command], check=True, stdout=subprocess.DEVNULL)
        whole = time.monotonic() - begun
        found["ways"][f"search, {workers} worker" + "s" * (workers > 1)] = {"whole": whole, "trials": _spent(project)}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--bare", folder / "search1", data, folder / "bare"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found["ways"]["bare"] = {"whole": time.monotonic() - begun, "trials": float(done.stdout.split()[-1])}
    reference = found["ways"]["bare"]
    for way, seconds in found["ways"].items():
        seconds["ratio_trials"] = seconds["trials"] / reference["trials"]
        seconds["ratio_whole"] = seconds["whole"] / reference["whole"]
        seconds["trials_per_hour"] = 3600 * trials / seconds["trials"]
        rows.append(
            [way, f"{seconds['trials']:.1f}", f"{seconds['ratio_trials']:.3f}", f"{seconds['whole']:.1f}",
             f"{seconds['ratio_whole']:.3f}", f"{seconds['trials_per_hour']:.0f}"]
        )  # fmt: skip
    head = ["way", "trials, s", "over bare", "whole command, s", "over bare", "trials/hour"]
    print(tabulate(rows, head, disable_numparse=True))
    return found


def _spent(project: Path) -> float:
    """Seconds from the first trial's beginning to the last one's end, by the stamps in the workers' logs."""
    stamps = [
        time.mktime(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S"))
        for log in project.glob("logs/*.log")
        for line in log.read_text().splitlines()
        if line[:2] == "20" and " trial " in line
    ]
    return max(stamps) - min(stamps)


def bare(project: Path, data: Path, runs: Path) -> None:
    """Trains the trials of a search one after the other, in this process, without anything of the tuner."""
    from cxr.machine import load_tensorflow_quietly
    from tfrecords.dataset import open_dataset
    from trainer.facts import DataFacts
    from trainer.run import create_run
    from trainer.train_config import TrainConfig

    load_tensorflow_quietly()
    import keras

    from trainer.training.loop import train

    opened = open_dataset(data)
    records = sorted(project.glob("trial_*/record.json"))
    configs = [json.loads(path.read_text())["config"] for path in records]
    begun = time.monotonic()
    for number, config in enumerate(configs):
        keras.backend.clear_session()
        run = create_run(runs / str(number), TrainConfig.from_json(config), DataFacts.of(opened))
        train(run, opened, quiet=True, threads=len(os.sched_getaffinity(0)))
    print(time.monotonic() - begun)


def load(folder: Path, oracle: str) -> list[dict[str, float]]:
    """Dummy trials by more and more workers."""
    from tuner.cluster.chief import Chief
    from tuner.cluster.protocol import QUESTIONS, serve
    from tuner.search_config import SearchConfig

    rows, found = [], []
    for workers in WORKERS:
        project = folder / f"load{workers}"
        project.mkdir()
        many = {"max_trials": 10**9} if oracle == "random" else {"epochs": 81, "max_trials": 10**9}
        chief = Chief(SearchConfig(data="data", project=str(project), oracle=oracle, **many), "digest")
        server, port = serve("127.0.0.1:0", {name: getattr(chief, name) for name in QUESTIONS})
        answers = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=_dummies, args=(port, workers, answers))
        process.start()
        latencies, trials, seconds = answers.get()
        process.join()
        server.stop(0).wait()
        chief.put_down()
        row = {
            "workers": workers,
            "trials_per_second": trials / seconds,
            "questions_per_second": len(latencies) / seconds,
            "median_ms": 1000 * statistics.median(latencies),
            "p95_ms": 1000 * sorted(latencies)[int(0.95 * len(latencies))],
            "trials_in_project": len(chief.oracle.trials),
        }
        found.append(row)
        rows.append([f"{value:.1f}" if isinstance(value, float) else value for value in row.values()])
    head = ["workers", "trials/s", "questions/s", "median answer, ms", "95 %, ms", "trials in the end"]
    print(tabulate(rows, head, disable_numparse=True))
    return found


def _dummies(port: int, workers: int, answers: Any) -> None:
    """Workers that train nothing, a thread each; tells how long each answer took."""
    from tuner.cluster.protocol import ChiefClient

    latencies: list[list[float]] = [[] for _ in range(workers)]
    trials = [0] * workers
    start, over = threading.Barrier(workers + 1), threading.Event()

    def work(number: int) -> None:
        client = ChiefClient(f"127.0.0.1:{port}", 60.0)

        def ask(method: str, **fields: Any) -> dict[str, Any]:
            begun = time.perf_counter()
            answer = client.ask(method, **fields)
            latencies[number].append(time.perf_counter() - begun)
            return answer

        who = {"worker": f"w{number}", "process": str(number)}
        start.wait()
        while not over.is_set():
            task = ask("next", **who)
            if task["do"] != "run":
                continue
            rows = [
                {"epoch": epoch + 1, "val_auc": 0.5 + hash(task["trial"]) % 97 / 200, "loss": 0.4}
                for epoch in range(EPOCHS)
            ]
            for row in rows:
                ask("report", **who, trial=task["trial"], epoch=row["epoch"], rows=[row])
            told = {"outcome": "completed", "score": rows[0]["val_auc"], "best_epoch": 1, "rows": rows}
            ask("end", **who, trial=task["trial"], **told)
            trials[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.monotonic()
    time.sleep(SECONDS)
    over.set()
    for thread in threads:
        thread.join()
    answers.put(([seconds for each in latencies for seconds in each], sum(trials), time.monotonic() - begun))


if __name__ == "__main__":
    main()
