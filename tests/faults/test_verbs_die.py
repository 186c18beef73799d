"""Verbs that die, or are told to end, at steps that change the disk, and go on to the same bytes.

Some steps of every verb are tried here; FLORACLE_EVERY_STEP=1 tries all (docs/reliability.md).
"""

import pytest

from dying import told

FEW = "--seeds 0:2 --steps 4"
COMMANDS = {
    "stages": "digits --pairs 4 --times 12 --classes 0,1,2",
    "compare": "gaussian:20x4 gaussian:30x4 --pairs 4 --times 12",
    "sample": f"oracle digits {FEW}",
    "probe": f"digits-pico --data digits {FEW}",
    "loss": "digits-pico --data digits --pairs 2 --trajectories 2 --times .3,.5 --steps 2",
    "mix": f"digits-pico --data digits --switch .5 --landing .2 {FEW}",
    "reproduce": "figure-2a digits --quick",
}
"""Commands that write several results or parts; drawing, which takes longest, is replaced."""

KILLED = """
import os, sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import floracle.report.comparison.page, floracle.report.loss.page, floracle.report.mix.page
import floracle.report.probe.page, floracle.report.stages.write, floracle.recipes.reproduce
import floracle.analysis.trajectories.trajectory_analysis, floracle.report.stages.examples
import sklearn.datasets
from floracle.cli import build, main
from floracle.run.files import write_bytes, write_text
from dying import DIED, TOLD, tried, watch_disk

verb, words, folder, share, how = sys.argv[1:]
words, folder = words.split(), Path(folder)


def page(module, name):
    def draw(*given, **named):
        out = next(one for one in given if isinstance(one, Path))
        write_text(out / "figures" / "a.csv", "a figure")
        write_text(out / module.PAGE, "a page")
        return out / module.PAGE

    setattr(module, name, draw)


page(floracle.report.comparison.page, "write_comparison_report")
page(floracle.report.loss.page, "write_loss_report")
page(floracle.report.mix.page, "write_mix_report")
page(floracle.report.probe.page, "write_probe_report")
page(floracle.report.stages.write, "write_stages_report")
floracle.recipes.reproduce.write_figures = lambda drawings, out: [
    write_bytes(out / "figures" / f"{drawing.name}.{kind}", b"a figure")
    for drawing in drawings
    for kind in ("png", "svg", "csv")
]
with redirect_stdout(StringIO()):
    build()([verb, "--help"], exit_on_error=False, result_action="return_value")  # loads it


def contents(out):
    files = [path for path in sorted(out.rglob("*")) if path.is_file() or path.is_symlink()]
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in files
        if path.name not in ("timing.json", "report.html")  # they hold how long it took
    }


def run(out, *moments):
    '''The command in processes that die at the given moments, then in one that does not.'''
    for moment in (*moments, None):
        child = os.fork()
        if child == 0:
            sys.stdout, log = open(os.devnull, "w"), (folder / "said").open("w")
            sys.stderr = log
            done = watch_disk(moment, told=how == "told")
            code = main([verb, *words, "--out", str(out)])
            log.flush()
            (folder / "count").open("w").write(str(done[0]))
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ends = (0, TOLD if how == "told" else DIED)
        said = (folder / "said").read_text()
        assert code == 0 or (code in ends and moment is not None), (moment, code, said)
        assert "Traceback" not in said, said


run(folder / "whole")
total, expected = int((folder / "count").read_text()), contents(folder / "whole")
assert "run.json" in expected and not any(".floracle" in name for name in expected)
for moment in tried(total, int(share)):
    out = folder / f"moment-{moment}"
    run(out, moment, *([moment * 7919 % total] if moment % 3 == 0 else []))
    found = contents(out)
    assert found.keys() == expected.keys(), (moment, found.keys() ^ expected.keys())
    unlike = [name for name in expected if found[name] != expected[name]]
    assert not unlike, (moment, unlike, found[unlike[0]][-900:], expected[unlike[0]][-900:])
print(total)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "told"])
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_that_dies_at_a_step_on_the_disk_goes_on_to_the_same_bytes(tmp_path, verb, how):
    share = (8 if verb == "stages" else 4) if how == "killed" else 1
    words = ["-c", KILLED, verb, COMMANDS[verb], str(tmp_path), str(share), how]
    assert told(words) > 15
