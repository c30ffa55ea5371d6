"""What a user sees of a run: what runs now, how much is done, what failed.

Replaces Snakemake's messages in the terminal; its own, longer log stays in .snakemake/log, and
`--verbose` shows it in the terminal.
"""

from __future__ import annotations

import csv
import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from logging import Handler, LogRecord
from pathlib import Path
from typing import Any, TextIO

from snakemake_interface_logger_plugins.common import LogEvent

from glmtune.durations import format_seconds
from glmtune.errors import BAR_ABOVE, printable

# Messages of Snakemake that do not help a user.
NOISE = (
    *("Assuming unrestricted", "Building DAG", "Using shell", "Provided cores", "Rules claiming"),
    *("Provided resources", "Select jobs", "Execute ", "Finished jobid", "Job stats", "host:"),
    *("Trying to restart", "Shutting down", "This was a dry-run", "Would remove", "Reasons:"),
    *("Removing output", "Elapsed time", "Some jobs were triggered", "If you prefer that only"),
    # The messages and the log of the failed step itself are shown instead.
    *("RuleException:\nCalledProcessError", "WorkflowError:\nAt least one job did not"),
    *("If you are sure that a change", "Rules with provenance", "Using workflow specific profile"),
)
# A rule that only requests others.
TARGET = "all"
# System errors of Snakemake itself -> what to do.
REFUSALS = {
    "[Errno 28]": "free some space on the disk",
    "[Errno 30]": "make the disk writable",
    "PermissionError": "make the file and its folder writable (owner, chmod u+w)",
    "ProtectedOutputException": "make these files writable (chmod u+w; links into DVC's cache: "
    "dvc unprotect)",
}
LINES_OF_A_FAILED_LOG, LONGEST_REASON = 20, 160
# Clears the progress bar of another step, which leaves the cursor at its end.
CLEARED = "\r\x1b[K"


def show_progress(workflow: Any) -> None:
    """Let this module write to the terminal instead of Snakemake's own handler.

    Changes nothing where that handler is not found: with `--logger` on the command line,
    and in a Snakemake that has another one.
    """
    from snakemake.logging import logger

    # On a full disk each line of the log file would otherwise print a traceback.
    logging.raiseExceptions = False
    for handler in list(logger.handlers):
        if handler.get_name() == "DefaultStreamHandler":
            ours = ProgressHandler(workflow.output_settings)
            for wanted in handler.filters:  # --quiet, --verbose
                ours.addFilter(wanted)
            logger.removeHandler(handler)
            logger.addHandler(ours)


class ProgressHandler(Handler):
    """Writes one line as a step begins and one as it ends."""

    def __init__(self, settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.stream: TextIO = sys.stdout if settings.stdout else sys.stderr
        self.began = time.monotonic()
        self.pending: Counter[str] = Counter()
        self.total = 0
        self.running: dict[int, tuple[str, str, float]] = {}  # job -> rule, title, start
        self.seconds = defaultdict(list, _earlier_seconds(Path("benchmarks")))
        self.worked = 0.0
        self.failed: list[str] = []
        self.last = ""  # what was printed last

    def emit(self, record: LogRecord) -> None:
        """Show a record, if it helps a user."""
        event: Any = getattr(record, "event", None)
        show = {
            LogEvent.RUN_INFO: self._show_plan,
            LogEvent.JOB_INFO: self._show_start,
            LogEvent.JOB_FINISHED: self._show_end,
            LogEvent.JOB_ERROR: self._show_failure,
            LogEvent.SHELLCMD: self._show_command,
        }.get(event)
        if show is not None:
            show(vars(record))
        elif event in (None, LogEvent.ERROR):
            self._show_text(record)

    def _show_plan(self, record: Mapping[str, Any]) -> None:
        if self.total:
            return  # a dry run counts a second time at its end
        not_steps = ("total", TARGET)
        self.pending = Counter(
            {r: int(n) for r, n in record["stats"].items() if r not in not_steps}
        )
        self.total = self.pending.total()
        steps = ", ".join(f"{n} {rule}" for rule, n in self.pending.items())
        self._print(f"{self.total} step{'s' * (self.total != 1)}: {steps}")

    def _show_start(self, record: Mapping[str, Any]) -> None:
        if record["rule_name"] == TARGET:
            return
        title = record["rule_msg"] or record["rule_name"]
        if self.settings.dryrun:
            # The lines of the other steps say which files they write.
            reason = str(record["reason"]).replace("Input files updated by another job:", "after:")
            reason = reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + "…"
            self._print(f"▶ {title}\n    because: {reason}")
            return
        self.running[record["jobid"]] = record["rule_name"], title, time.monotonic()
        done = self.total - sum(self.pending.values())
        self._print(f"▶ {title} ({done} of {self.total} done{self._time_left()})")

    def _show_end(self, record: Mapping[str, Any]) -> None:
        if record["job_id"] not in self.running:
            return
        rule, title, start = self.running.pop(record["job_id"])
        took = time.monotonic() - start
        self.pending[rule] -= 1
        self.seconds[rule].append(took)
        self.worked += took
        self._print(f"✓ {title} {format_seconds(took)}")

    def _show_failure(self, record: Mapping[str, Any]) -> None:
        _, title, _ = self.running.pop(record["jobid"], ("", record["rule_name"], 0.0))
        logs = [str(log) for log in record["log"] or ()]
        of_cluster = _reason_of_cluster(record)
        ends = [end for end in (*map(_tail, logs), of_cluster) if end]
        reasons = [end.split("\n")[-1].strip() for end in ends]
        places = [f"\n    Full log: {log}" for log in logs]
        self.failed.append(" ".join([f"✗ {title}", *reasons]) + "".join(places))
        if self.running or of_cluster:  # its output is among that of others, or elsewhere
            self._print("\n".join([f"✗ {title} failed" + ":" * bool(ends), *ends]))
        else:
            self._print(self.failed[-1])

    def _show_command(self, record: Mapping[str, Any]) -> None:
        command = record.get("cmd") or record.get("shellcmd")
        if command and self.settings.printshellcmds:
            self._print(str(command))

    def _show_text(self, record: LogRecord) -> None:
        text = str(record.msg or "").strip()
        if text and not text.startswith(NOISE):
            self._print(_explained(text))

    def _time_left(self) -> str:
        """Estimated from how long each kind of step took, in this run or an earlier one."""
        known = [rule for rule, count in self.pending.items() if count > 0 and self.seconds[rule]]
        if not known:
            return ""
        left = sum(self.pending[r] * sum(self.seconds[r]) / len(self.seconds[r]) for r in known)
        # Jobs may run in parallel: scale by the elapsed time per second of work so far.
        elapsed = time.monotonic() - self.began
        share = min(1.0, elapsed / self.worked) if self.worked else 1.0
        return f", about {format_seconds(left * share)} left"

    def _print(self, text: str) -> None:
        """Write lines; control characters from files and answers are escaped."""
        self.last = text
        text = printable(text.expandtabs())
        encoding = self.stream.encoding or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding)
        with suppress(
            OSError
        ):  # nobody reads it any more (`| head`, a closed terminal): no reason to stop
            print(CLEARED * self.stream.isatty() + text, file=self.stream, flush=True)

    def close(self) -> None:
        """End with what failed and why, because users read the last lines."""
        failed = "\n".join(self.failed)
        if failed and failed != self.last:
            self._print(failed)
        self.failed = []
        super().close()


def _reason_of_cluster(record: Mapping[str, Any]) -> str:
    """What became of the job of a cluster that failed, e.g. that it was cancelled; else nothing."""
    reason, _, _ = str(record.get("rule_msg") or "").partition("For further error details")
    return reason and f"    {reason.strip()}"


def _explained(text: str) -> str:
    """A message of Snakemake, with what to do about a system error.

    Of a traceback only the last line is shown then; Snakemake's log has all of it.
    """
    is_traceback = text.startswith("Traceback")
    line = text.splitlines()[-1 if is_traceback else 0]
    fix = next((fix for words, fix in REFUSALS.items() if words in line), None)
    if fix is None:
        return text
    return f"{line if is_traceback else text}\n    → {fix}, then run the same command again"


def _earlier_seconds(folder: Path) -> dict[str, list[float]]:
    """{rule: seconds of its jobs} from the benchmark files of earlier runs."""
    found: dict[str, list[float]] = defaultdict(list)
    for path in sorted(folder.rglob("*.tsv")):
        try:
            with path.open(encoding="utf-8", newline="") as lines:
                rows = list(csv.DictReader(lines, delimiter="\t"))
            found[path.relative_to(folder).parts[0].removesuffix(".tsv")].append(
                float(rows[0]["s"])
            )
        except (OSError, ValueError, KeyError, IndexError):
            continue  # half-written
    return found


def _tail(log: str) -> str:
    """The last lines of a log, without what progress bars overwrote."""
    try:
        text = Path(log).read_bytes().decode("utf-8", "replace")  # bars are ended by \r alone
    except OSError:
        return ""
    text = text.replace(BAR_ABOVE, "").replace("\r\n", "\n")
    lines = [line.split("\r")[-1] for line in text.rstrip().split("\n")]
    return "\n".join(f"    {line}" for line in lines[-LINES_OF_A_FAILED_LOG:])
