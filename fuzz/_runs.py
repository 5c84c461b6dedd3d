"""Runs of a target: started, watched, and told of."""

from __future__ import annotations

import csv
import json
import platform
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import attrs

from .targets import HERE, Target

__all__ = ["Figures", "merge", "run", "write_table"]

ROOT = HERE.parent
TABLE = ROOT / "docs" / "tables" / "fuzz.csv"

# What libFuzzer prints: "#4096 pulse cov: 120 ft: 340 corp: 56/1024b lim: 80 exec/s: 2048"
_STATUS = re.compile(r"#(\d+)\s+\w+\s.*?cov: (\d+) ft: (\d+).*?exec/s: (\d+)")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_FOUND = re.compile(r"Test unit written to (\S+)")

_TIMEOUT = 60  # of a single input, in seconds: a busy machine is slow
_MEMORY = 2048  # of the process, in MiB: what leaks reaches it


@attrs.frozen
class Figures:
    """How far a run has come."""

    target: str
    executions: int = 0
    per_second: int = 0
    branches: int = 0
    features: int = 0
    findings: tuple[str, ...] = ()
    day: str = attrs.field(factory=lambda: datetime.now(UTC).date().isoformat())
    versions: str = attrs.field(
        factory=lambda: ", ".join(
            (
                f"Python {platform.python_version()}",
                " ".join(ssl.OPENSSL_VERSION.split()[:2]),
                f"atheris {version('atheris')}",
            )
        )
    )

    def after(self, line: str, before: int) -> Figures:
        """Return what they are after a line of libFuzzer's output, in a run that began with
        ``before`` executions.
        """
        if match := _STATUS.search(line):
            executions, branches, features, per_second = map(int, match.groups())
            return attrs.evolve(
                self,
                executions=before + executions,
                branches=branches,
                features=features,
                per_second=per_second,
            )
        if match := _DONE.search(line):
            executions, seconds = map(int, match.groups())
            rate = executions // max(seconds, 1)
            return attrs.evolve(self, executions=before + executions, per_second=rate)
        if match := _FOUND.search(line):
            return attrs.evolve(self, findings=(*self.findings, match[1]))
        return self


def _engine(target: Target, *options: object) -> list[str]:
    return [sys.executable, "-m", f"{__package__}._engine", target.name, *map(str, options)]


def run(
    target: Target, *, runs: int, seed: int, work: Path, tell: Callable[[Figures], object]
) -> Figures:
    """Run a target so many times, and return the figures, which are kept in ``work`` too.

    Inputs that reach something new go into ``work``, findings into ``fuzz/regressions``. Runs that
    keep theirs in the same place are counted together.
    """
    new, findings = (work / folder / target.name for folder in ("corpus", "findings"))
    for folder in (new, findings):
        folder.mkdir(parents=True, exist_ok=True)
    kept = [folder for folder in (target.corpus, target.regressions) if folder.is_dir()]
    command = _engine(
        target,
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={target.max_len}",
        f"-timeout={_TIMEOUT}",
        f"-rss_limit_mb={_MEMORY}",
        f"-artifact_prefix={findings}/",
        new,
        *kept,
    )
    figures = before = _kept(target, work)
    log = (work / f"{target.name}.log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with log, process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if (now := figures.after(line, before.executions)) != figures:
                    figures = now
                    _keep(figures, work)
                    tell(figures)
        finally:
            process.kill()
    if process.returncode and not figures.findings:
        figures = attrs.evolve(figures, findings=(f"see {log.name}",))
        _keep(figures, work)
    for finding in findings.iterdir():
        target.regressions.mkdir(parents=True, exist_ok=True)
        shutil.copy(finding, target.regressions)
    return figures


def _keep(figures: Figures, work: Path) -> None:
    path = work / f"{figures.target}.json"
    path.write_text(json.dumps(attrs.asdict(figures)), encoding="utf-8")


def _kept(target: Target, work: Path) -> Figures:
    """Return the figures of the runs so far."""
    path = work / f"{target.name}.json"
    if not path.exists():
        return Figures(target.name)
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Figures(**{**kept, "findings": tuple(kept["findings"])})


def merge(target: Target, work: Path) -> int:
    """Make the corpus anew of what there is and what a run has found: as few inputs as reach the
    same. Return how many there are.
    """
    found = work / "corpus" / target.name
    small = work / "merged" / target.name
    small.mkdir(parents=True, exist_ok=True)
    folders = [folder for folder in (target.corpus, found) if folder.is_dir()]
    subprocess.run(
        _engine(target, "-merge=1", f"-max_len={target.max_len}", small, *folders),
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    target.corpus.mkdir(parents=True, exist_ok=True)
    for path in target.corpus.iterdir():
        path.unlink()
    inputs = list(small.iterdir())
    for path in inputs:
        path.replace(target.corpus / path.name[:16])  # a hash, as libFuzzer names it
    return len(inputs)


def write_table(targets: Iterable[Target], work: Path) -> Path:
    """Write the table of the docs, of what the runs in ``work`` have come to."""
    rows = []
    for target in targets:
        figures = _kept(target, work)
        rows.append(
            (
                target.name,
                f"{figures.executions:,}",
                f"{figures.per_second:,}",
                f"{figures.branches:,}",
                f"{figures.features:,}",
                str(sum(1 for _ in target.corpus.iterdir())),
                str(len(figures.findings)),
                figures.day,
                figures.versions,
            )
        )
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return TABLE
