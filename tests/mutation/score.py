"""The tester's own score: how many planted mistakes it finds, how many right rules it fails.

``python tests/mutation`` prints every figure; ``--seeds`` sets how many seeds each mutant is tried
on.
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

from mutation import CATALOG, Mutant, mutant, right_rules
from mutation.public_bugs import BUGS
from tinygrad_cnn import GradientMismatch
from tinygrad_cnn.core.op import OPS
from tinygrad_cnn.kernels.parallel import set_num_threads
from tinygrad_cnn.testing.cases import OpCase
from tinygrad_cnn.testing.check import find
from tinygrad_cnn.testing.diagnose import diagnose
from tinygrad_cnn.testing.linearization import CheckFailed, Finding, Stats
from tinygrad_cnn.testing.shrink import reproducer, shrink

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


def score_mutants(seeds: Iterable[int], mutants: Sequence[Mutant] = CATALOG, *,
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
        program = reproducer(small, named(planted))
        seconds = time.perf_counter() - began
        score.diagnosed += 1
        score.first += keys[0] == planted.diagnosis
        score.second += planted.diagnosis in keys[:2]
        if not isinstance(small.context, OpCase):
            return
        score.seconds.append(seconds)
        score.lines.append(len(program.splitlines()))
        score.entries.append(sum(a.size for a in small.context.arrays))
        if not fails(program):
            score.unconvincing.append(planted.name)


def named(planted: Mutant) -> tuple[list[str], str]:
    """How a program imports and names the broken op of a mutant."""
    return ["from mutation import mutant"], f"mutant({planted.name!r})"


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


# ---- mistakes of public reports, right gradients

def surviving_bugs(seeds: Iterable[int]) -> list[tuple[str, int]]:
    """Mistakes that public reports tell of and that are not found, with the seed."""
    survivors = []
    for seed in seeds:
        for bug in BUGS:
            try:
                bug.check(seed)
            except GradientMismatch:
                continue
            survivors.append((bug.name, seed))
    return survivors


# ---- right rules, one ulp

@dataclass
class RightRules:
    """What was found of rules that are right.

    Attributes
    ----------
    stats : Stats
        Comparisons made, and the worst error as a share of its bound.
    found : list of Finding
        What was wrongly found.
    seconds : dict of str to float
        Time that each op took on the first seed.
    """

    stats: Stats = field(default_factory=Stats)
    found: list[Finding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def score_right_rules(checks: int) -> RightRules:
    """Test the whole registry on one seed after another until there were enough comparisons."""
    right, seed = RightRules(), 1000
    with set_num_threads(1):
        while not right.seconds or right.stats.comparisons < checks:
            for op in OPS.values():
                began = time.perf_counter()
                finding = find(op, seed=seed, stats=right.stats)
                right.seconds.setdefault(op.name, time.perf_counter() - began)
                right.found += [] if finding is None else [finding]
            seed += 1
    return right


def exact_cases(seed: int = 0) -> Iterator[tuple[OpCase, int]]:
    """A case and an input of every op that is compared exactly."""
    for op in OPS.values():
        for sample in op.test.samples(np.random.default_rng(seed)):
            case = OpCase(op, sample, seed=seed)
            if not case.out.size:
                continue
            several = [k for k in case.here.wanted if case.arrays[k].size
                       and case.here.exact(k)]
            if several:
                yield from ((case, k) for k in several)
                break


def one_ulp_is_seen(case: OpCase, k: int) -> bool:
    """Whether an error of one ulp in one entry of the gradient is found."""
    ct = case.cotangent(1)
    got = case.pull(case.arrays, ct)[k]
    assert got is not None
    place = int(np.argmax(np.abs(got)))
    moved = got.copy()
    moved.flat[place] = np.nextafter(moved.flat[place], np.inf)
    try:
        case.here.compare(k, moved, ct, case.here.bound(k, ct, None))
    except CheckFailed:
        return True
    return False


# ---- the table

def main(argv: Sequence[str] | None = None) -> int:
    """Print all figures; 0 if every mutant is found and no right rule is failed."""
    parser = argparse.ArgumentParser(prog="python tests/mutation",
                                     description="Score the gradient tester.")
    parser.add_argument("--seeds", type=int, default=3, help="seeds for each mutant (default: 3)")
    parser.add_argument("--right-seeds", type=int, default=2,
                        help="seeds for each right gradient (default: 2; 50 take 10 minutes)")
    parser.add_argument("--checks", type=int, default=100_000,
                        help="comparisons of right rules (default: 100000)")
    options = parser.parse_args(argv)
    score = score_mutants(range(1), explain=True)
    more = score_mutants(range(1, options.seeds))
    score.tried += more.tried
    score.survivors += more.survivors
    right = score_right_rules(options.checks)
    bugs = surviving_bugs(range(options.seeds))
    outcomes = right_rules.outcomes(range(options.right_seeds))
    alarms = [o for o in outcomes if o.alarm]
    seen = [one_ulp_is_seen(case, k) for case, k in exact_cases()]
    slowest = max(right.seconds, key=lambda name: right.seconds[name])
    for line in (
            f"mutants                 {len(CATALOG)} on {options.seeds} seeds",
            f"killed                  {100 * score.kill_rate:.2f} %",
            f"survivors               {score.survivors or 'none'}",
            f"mistakes of reports     {len(BUGS)} on {options.seeds} seeds, survivors "
            f"{bugs or 'none'}",
            f"right gradients         {len(outcomes)} on {options.right_seeds} seeds, "
            f"{sum(o.verdict.startswith('right') for o in outcomes)} right, "
            f"{sum(o.verdict == 'not measured' for o in outcomes)} not measured at every entry, "
            f"false alarms {alarms or 'none'}",
            f"right rules failed      {len(right.found)} in {right.stats.comparisons} checks, "
            f"worst error {right.stats.worst:.2g} of its bound",
            f"one ulp in one entry    seen in {sum(seen)} of {len(seen)} exact inputs",
            f"diagnosis right first   {100 * score.first / score.diagnosed:.1f} %, "
            f"within two {100 * score.second / score.diagnosed:.1f} %",
            f"reproducers             at most {max(score.lines)} lines, median "
            f"{statistics.median(score.entries):g} entries, at most {max(score.seconds):.1f} s; "
            f"{len(score.unconvincing)} of {len(score.lines)} do not fail "
            f"{score.unconvincing or ''}",
            f"whole registry          {sum(right.seconds.values()):.1f} s on {os.cpu_count()} "
            f"cores, slowest op {slowest} {right.seconds[slowest]:.2f} s"):
        print(line.rstrip())
    return 0 if not (score.survivors or bugs or alarms or right.found) and all(seen) else 1
