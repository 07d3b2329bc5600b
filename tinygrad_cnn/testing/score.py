"""The tester's own score: how many planted mistakes it finds, how many right rules it fails.

``python -m tinygrad_cnn.testing.score`` prints every figure that it promises; ``--seeds`` sets how
many seeds each mutant is tried on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinygrad_cnn.kernels.threads import set_num_threads
from tinygrad_cnn.op import OPS
from tinygrad_cnn.testing.diagnose import diagnose
from tinygrad_cnn.testing.mutants import CATALOGUE, Mutant, mutant
from tinygrad_cnn.testing.ops import find
from tinygrad_cnn.testing.report import Finding, Tally, Wrong
from tinygrad_cnn.testing.reproduce import reproducer
from tinygrad_cnn.testing.shrink import shrink
from tinygrad_cnn.testing.trial import Trial

__all__ = ["Score", "main", "one_ulp_is_seen", "run", "score_mutants"]


@dataclass
class Score:
    """What was found of the planted mistakes.

    Attributes
    ----------
    tried : int
        Mutants × seeds.
    survivors : list of (str, int)
        Mutant and seed of each that was not found.
    first, second : int
        Diagnoses that were right at once, and within two.
    diagnosed : int
        How many were diagnosed.
    lines, entries, seconds : list
        Of each reproducer: its lines, its entries, and the time it took to find.
    unconvincing : list of str
        Mutants whose reproducer does not fail.
    """

    tried: int = 0
    survivors: list[tuple[str, int]] = field(default_factory=list)
    first: int = 0
    second: int = 0
    diagnosed: int = 0
    lines: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    unconvincing: list[str] = field(default_factory=list)

    @property
    def kill_rate(self) -> float:
        """Share of the mutants × seeds that were found."""
        return 1 - len(self.survivors) / max(self.tried, 1)


def run(planted: Mutant, seed: int) -> Finding | None:
    """What the tester finds of a mutant."""
    with _engine(planted), set_num_threads(1):
        return find(mutant(planted.name), order=planted.order, seed=seed)


def _engine(planted: Mutant) -> contextlib.AbstractContextManager[None]:
    return planted.engine() if planted.engine else contextlib.nullcontext()


def score_mutants(seeds: Iterable[int], mutants: Sequence[Mutant] = CATALOGUE, *,
                  explain: bool = False) -> Score:
    """Try every mutant on every seed; with ``explain``, score diagnoses and reproducers too."""
    score = Score()
    for seed in seeds:
        for planted in mutants:
            score.tried += 1
            finding = run(planted, seed)
            if finding is None:
                score.survivors.append((planted.name, seed))
            elif explain:
                _score_report(score, planted, finding)
    return score


def _score_report(score: Score, planted: Mutant, finding: Finding) -> None:
    with _engine(planted), set_num_threads(1):
        keys = [key for key, _ in diagnose(finding)]
        began = time.perf_counter()
        small = shrink(finding)
        program = reproducer(small)
        seconds = time.perf_counter() - began
        score.diagnosed += 1
        score.first += keys[0] == planted.diagnosis
        score.second += planted.diagnosis in keys[:2]
        if not isinstance(small.context, Trial):
            return
        score.seconds.append(seconds)
        score.lines.append(len(program.splitlines()))
        score.entries.append(sum(a.size for a in small.context.arrays))
        if not fails(program):
            score.unconvincing.append(planted.name)


def fails(program: str) -> bool:
    """Whether a reproducer raises AssertionError when it is run by itself."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(program, "<reproducer>", "exec"), {})
    except AssertionError:
        return True
    except Exception:
        return False
    return False


# ---- right rules, one ulp, time

def score_right_rules(checks: int) -> tuple[int, list[Finding], float]:
    """Comparisons on rules that are right, what was wrongly found, and the worst error."""
    tally, found, seed = Tally(), [], 1000
    with set_num_threads(1):
        while tally.comparisons < checks:
            for op in OPS.values():
                finding = find(op, seed=seed, tally=tally)
                if finding is not None:
                    found.append(finding)
            seed += 1
    return tally.comparisons, found, tally.worst


def exact_trials(seed: int = 0) -> Iterator[tuple[Trial, int]]:
    """A trial and an input of every op that is compared exactly."""
    for op in OPS.values():
        for sample in op.samples(np.random.default_rng(seed)):
            trial = Trial(op, sample, seed=seed)
            if not trial.out.size:
                continue
            several = [k for k in trial.point.wanted if trial.arrays[k].size
                       and trial.point.exact(k)]
            if several:
                yield from ((trial, k) for k in several)
                break


def one_ulp_is_seen(trial: Trial, k: int) -> bool:
    """Whether an error of one ulp in one entry of the gradient is found."""
    ct = trial.cotangent(1)
    got = trial.pull(trial.arrays, ct)[k]
    assert got is not None
    place = int(np.argmax(np.abs(got)))
    moved = got.copy()
    moved.flat[place] = np.nextafter(moved.flat[place], np.inf)
    try:
        trial.point.compare("gradient", k, moved, ct, trial.point.bound(k, ct, np.float64, None),
                            Tally())
    except Wrong:
        return True
    return False


def registry_seconds() -> tuple[float, float, str]:
    """Time of the whole registry, and the slowest op with its time."""
    slowest, name, total = 0.0, "", time.perf_counter()
    with set_num_threads(1):
        for op in OPS.values():
            began = time.perf_counter()
            find(op)
            if time.perf_counter() - began > slowest:
                slowest, name = time.perf_counter() - began, op.name
    return time.perf_counter() - total, slowest, name


# ---- the table

def main(argv: Sequence[str] | None = None) -> int:
    """Print all figures; 0 if every mutant is found and no right rule is failed."""
    parser = argparse.ArgumentParser(prog="python -m tinygrad_cnn.testing.score",
                                     description="Score the gradient tester.")
    parser.add_argument("--seeds", type=int, default=3, help="seeds for each mutant (default: 3)")
    parser.add_argument("--checks", type=int, default=100_000,
                        help="comparisons of right rules (default: 100000)")
    options = parser.parse_args(argv)
    score = score_mutants(range(1), explain=True)
    more = score_mutants(range(1, options.seeds))
    score.tried += more.tried
    score.survivors += more.survivors
    checks, false, worst = score_right_rules(options.checks)
    seen = [one_ulp_is_seen(trial, k) for trial, k in exact_trials()]
    whole, slowest, name = registry_seconds()
    for line in (
            f"mutants                 {len(CATALOGUE)} on {options.seeds} seeds",
            f"killed                  {100 * score.kill_rate:.2f} %",
            f"survivors               {score.survivors or 'none'}",
            f"right rules failed      {len(false)} in {checks} checks, "
            f"worst error {worst:.2g} of its bound",
            f"one ulp in one entry    seen in {sum(seen)} of {len(seen)} exact inputs",
            f"diagnosis right first   {100 * score.first / score.diagnosed:.1f} %, "
            f"within two {100 * score.second / score.diagnosed:.1f} %",
            f"reproducers             at most {max(score.lines)} lines, median "
            f"{statistics.median(score.entries):g} entries, at most {max(score.seconds):.1f} s; "
            f"{len(score.unconvincing)} of {len(score.lines)} do not fail "
            f"{score.unconvincing or ''}",
            f"whole registry          {whole:.1f} s on {os.cpu_count()} cores, slowest op {name} "
            f"{slowest:.2f} s"):
        print(line.rstrip())
    return 0 if not score.survivors and not false and all(seen) else 1


if __name__ == "__main__":
    raise SystemExit(main())
