"""The results of a search, and how far they can be trusted, in sentences."""

from __future__ import annotations

import shlex
from pathlib import Path

from tuner.report.importance import Importances
from tuner.report.trial_rows import counts, size_of
from tuner.results import SearchResult, TrialResult
from tuner.trial_result import score_text


def standing(search: SearchResult) -> str:
    """Number of trials of each status, and the state of the search."""
    found = counts(search)
    trials = len(search.trials)
    said = f"{trials} trial{'s' * (trials != 1)}: " + ", ".join(f"{count} {status}" for status, count in found.items())
    return f"{said if trials else 'No trial yet'}. {_state(search)}"


def _state(search: SearchResult) -> str:
    command = shlex.join(["cxr", "tune", "--project", str(search.project), "--resume"])
    resume = f"`{command}` resumes it"
    if search.state == "running":
        return f"The search is running, or was killed: then {resume}."
    if search.state == "complete":
        return "The search is complete."
    how = "was stopped" if search.state == "stopped" else "ended early"
    return f"The search {how}{f': {search.reason}' if search.reason else ''}. {resume[0].upper() + resume[1:]}."


def train_command(search: SearchResult, best: TrialResult, file: Path, between: str = " ") -> str:
    """The command that trains the best trial's configuration, which `file` holds; `between` separates two options."""
    settings = search.settings
    run = Path("runs") / f"{search.project.resolve().name}-{best.id}"
    options = {"data": settings["data"], "run": run, "config": file, "positive": settings.get("positive")}
    given = (f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value)
    return between.join(["cxr train", *given])


def headline(search: SearchResult) -> str:
    """The best trial and its score, or that there is none."""
    best = search.best
    if best is None:
        return "No trial has a score yet."
    among = len(search.ranked)
    of = f"the best of {among} with a score" if among > 1 else "the only one with a score"
    return f"Trial {best.id} is {of}: {search.objective} {score_text(best.score)}."


def described(trial: TrialResult) -> str:
    """A trial in a sentence: model, image size, weights and epochs."""
    weights = "" if trial.parameters is None else f", {trial.parameters:,} weights"
    size = size_of(trial)
    pixels = f"{size} x {size}" if size.isdigit() else size.replace("x", " x ")
    epochs = f"epoch {trial.best_epoch} of {trial.epochs}" if trial.best_epoch else f"{trial.epochs} epochs"
    return f"It is {trial.config['model']} on {pixels} pixels{weights}, {epochs}."


def chosen(trial: TrialResult) -> str:
    """Its hyperparameters."""
    return ", ".join(f"{name} {trial.shown(name)}" for name in trial.values)


def shorter_than_others(search: SearchResult) -> str:
    """A sentence if the best trial was given fewer epochs than the maximum; else empty."""
    best, most = search.best, int(search.settings.get("epochs") or 0)
    if best is None or "preset" in best.values or best.epochs >= most:
        return ""
    return (
        f"The best trial was given {best.epochs} of at most {most} epochs, which best.json repeats; "
        f"add --epochs {most} to train it for the maximum."
    )


def mattered(importances: Importances, most: int = 5) -> str:
    """The most important hyperparameters in a line, or why they are unknown; with a caution if needed."""
    if not importances.ranked:
        return f"The importance of the hyperparameters is unknown: {importances.reason}."
    shown = ", ".join(f"{one.label} {one.value:.2f}" for one in importances.ranked[:most])
    own = f"(loss of R2 when shuffled; the forest's own is {importances.r2:.2f} on unseen trials)"
    return f"Most important: {shown} {own}." + (f"\n{importances.caution}." if importances.caution else "")


def comparable(search: SearchResult) -> str:
    """Why scores of the ranking are not comparable; empty if they are."""
    ranked, parts = search.ranked, []
    if len({trial.epochs for trial in ranked}) > 1:
        parts.append("were given different numbers of epochs")
    if len({trial.status for trial in ranked}) > 1:
        parts.append("were pruned, and scored by the best epoch until then")
    if not parts:
        return ""
    return f"Scores are not directly comparable: some trials {', and some '.join(parts)}."
