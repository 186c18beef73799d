"""`floracle --help` from a cold interpreter. Budget: ≤ .3 s."""

from __future__ import annotations

import statistics
import subprocess
import sys

from measure import report, seconds


def main() -> None:
    def start(*arguments: str):
        return lambda: subprocess.run(
            [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL
        )

    taken = seconds(
        {"python": start("-c", "pass"), "help": start("-m", "floracle", "--help")}, rounds=15
    )
    report(
        "help_time",
        {name: round(statistics.median(times), 3) for name, times in taken.items()},
    )


if __name__ == "__main__":
    main()
