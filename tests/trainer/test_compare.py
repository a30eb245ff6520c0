"""Runs side by side: every column, the order, what is best, and what forbids a comparison."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxr.errors import InputError
from trainer.compare import COLUMNS, METRICS, compare_runs, main
from trainer.facts import DataFacts
from trainer.run import create_run
from trainer.train_config import TrainConfig

PATHS = ("val/a.png", "val/b.png")


def make_run(root: Path, name: str, auc: float | None = None, **changes) -> Path:
    """A finished run, evaluated on val where it has an area under the curve; what differs is given by name."""
    labels = ("NORMAL", "PNEUMONIA")
    digest = changes.get("digest", "d" * 64)
    facts = DataFacts(f"/data/{digest[0]}", digest, labels, False, "PNEUMONIA", 1, 8, 0.5, 0.2, {"train": 9})
    config = TrainConfig(model=changes.get("model", "cnn3"), image_size=changes.get("image_size", 64), epochs=9)
    run = create_run(root / name, config, facts, changes.get("preset"))
    run.finish(epochs=7, best_epoch=4, best=0.9)
    if auc is not None:
        split = changes.get("split", "val")
        run.evaluation(split).mkdir(parents=True)
        values = {name: auc - 0.01 * number for number, name in enumerate(METRICS) if not name.startswith("worst")}
        values["roc_auc"] = auc
        worst = {name: {"shift": "blur", "value": auc - 0.2, "drop": 0.2} for name in ("specificity", "roc_auc")}
        metrics = {
            "labels": list(labels), "positive": "PNEUMONIA", "data": "/data", "images": 2, "patients": 2,
            "operating_point": {"rule": changes.get("rule", "youden"), "chosen_on": "val", "thresholds": {}},
            "metrics": {name: {"value": value, "low": 0, "high": 1} for name, value in values.items()},
            "worst": worst if changes.get("shifts", True) else None,
        }  # fmt: skip
        (run.evaluation(split) / "metrics.json").write_text(json.dumps(metrics))
        paths = changes.get("paths", PATHS)
        lines = ["row,path,label", *(f"{number},{path},NORMAL" for number, path in enumerate(paths))]
        (run.evaluation(split) / "predictions.csv").write_text("\n".join(lines))
    return run.root


def test_every_column_is_read(tmp_path):
    root = make_run(tmp_path, "one", 0.9, preset="robust", image_size=(64, 96))
    (one,), notes = compare_runs([root])
    assert notes == [] and one.path == root and list(one.row) == list(COLUMNS)
    assert list(one.row.values())[:6] == ["one", "cnn3", "robust", "64x96", 4, 7]
    measured = [one.row[name] for name in METRICS]
    assert measured == pytest.approx([0.9, 0.89, 0.88, 0.87, 0.86, 0.9, 0.84, 0.7, 0.7])


def test_the_best_comes_first_and_the_unknown_last(tmp_path):
    for name, auc, shifts in (("a", 0.8, True), ("b", 0.95, False), ("c", 0.9, True)):
        make_run(tmp_path / "deep" / "er", name, auc, shifts=shifts)

    def order(sort: str) -> list[str]:
        return [one.row["run"] for one in compare_runs([tmp_path], sort=sort)[0]]

    assert order("roc_auc") == ["b", "c", "a"]
    assert order("worst_specificity") == ["c", "a", "b"]
    assert order("run") == ["a", "b", "c"]


def test_a_run_counts_once_and_shared_names_become_paths(tmp_path):
    first, second = make_run(tmp_path / "x", "same", 0.8), make_run(tmp_path / "y", "same", 0.9)
    compared, _ = compare_runs([first, tmp_path, second])
    assert [one.row["run"] for one in compared] == [str(second), str(first)]


def test_what_has_not_been_evaluated_is_named_with_the_command(tmp_path, capsys):
    make_run(tmp_path, "done", 0.9)
    other = make_run(tmp_path, "other", 0.9, split="test")
    assert main([str(tmp_path)]) == 0
    assert f"cxr evaluate --run {other} --split val" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"nothing to compare\n.*--split extra"):
        main([str(tmp_path), "--split", "extra"])


@pytest.mark.parametrize(("change", "note"), [
    ({"digest": "e" * 64}, "trained on different data sets: a: /data/d; b: /data/e"),
    ({"paths": ("val/a.png", "val/c.png")}, "val has different images: a: 2 images"),
    ({"rule": "recall=0.95"}, "thresholds chosen by different rules: a: youden; b: recall=0.95"),
    ({"paths": PATHS[::-1]}, None),
    ({"model": "mlp"}, None),
])  # fmt: skip
def test_what_cannot_be_compared_is_said(tmp_path, change, note):
    make_run(tmp_path, "a", 0.9)
    make_run(tmp_path, "b", 0.8, **change)
    _, notes = compare_runs([tmp_path])
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_the_best_is_marked_in_table_and_markdown(tmp_path, capsys):
    make_run(tmp_path, "a", 0.9)
    make_run(tmp_path, "b", 0.8)
    main([str(tmp_path)])
    table = capsys.readouterr().out.splitlines()
    assert [line.count("*") for line in table] == [0, 0, len(METRICS), 0, 1]
    assert "preset" not in table[0] and "*0.9000" in table[2] and " 0.8000" in table[3]
    main([str(tmp_path), "--format", "markdown"])
    markdown = capsys.readouterr().out.splitlines()
    assert markdown[1].startswith("|:") and "**0.9000**" in markdown[2] and "**" not in markdown[3]


def test_csv_and_json_have_all_digits_and_nothing_else(tmp_path, capsys):
    make_run(tmp_path, "a", 0.123456789012)
    make_run(tmp_path, "b", 0.8, digest="e" * 64, shifts=False)
    main([str(tmp_path), "--format", "csv"])
    out, err = capsys.readouterr()
    first, second = csv.DictReader(io.StringIO(out))
    assert list(first) == list(COLUMNS) and first["run"] == "b" and first["worst_roc_auc"] == ""
    assert float(second["roc_auc"]) == 0.123456789012
    assert "different data sets" in err
    main([str(tmp_path), "--format", "json"])
    out, _ = capsys.readouterr()
    assert [row["path"] for row in json.loads(out)] == [str(tmp_path / "b"), str(tmp_path / "a")]


def test_damaged_runs_do_not_hide_the_others(tmp_path):
    make_run(tmp_path, "good", 0.9)
    for name, text in (("cut", "{"), ("strange", '{"metrics": 3}')):
        (make_run(tmp_path, name, 0.9) / "evaluation" / "val" / "metrics.json").write_text(text)
    compared, notes = compare_runs([tmp_path])
    assert [one.row["run"] for one in compared] == ["good"]
    assert "cut/evaluation/val/metrics.json cannot be read" in notes[0] and "damaged" in notes[1]


def test_places_without_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        compare_runs([tmp_path / "absent"])
    with pytest.raises(InputError, match="is no run and holds none"):
        compare_runs([tmp_path])


def test_it_loads_no_framework(tmp_path):
    make_run(tmp_path, "a", 0.9)
    code = (
        f"import sys; from trainer.compare import main; main([{str(tmp_path)!r}]); "
        "assert not {'keras', 'tensorflow', 'numba', 'jax'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
