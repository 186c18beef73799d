"""Ctrl-C and SIGTERM while a network learns: a checkpoint is written, and nothing is lost."""

import os
import signal
from dataclasses import replace

import pytest
from tiny import BLIND, SMALL, digits, network, same

import floracle
from floracle.training import checkpoint
from floracle.training.interrupts import deferred
from floracle.training.metrics_log import read_log
from floracle.training.train_step import Stepper

RUN = replace(SMALL, images=320, batch=32, every=160, lines=3, drop=0.2)
TIMED = {"seconds", "images_per_second"}


def trained(out):
    for _ in floracle.train(network(), digits(), RUN, out=out, look=BLIND):
        pass
    lines = [{k: v for k, v in line.items() if k not in TIMED} for line in read_log(out).lines]
    return checkpoint.read_checkpoint(checkpoint.latest_checkpoint(out)[0]), lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 5, 8])
def test_a_signal_in_any_step_leaves_its_checkpoint_and_the_run_the_same(
    tmp_path, monkeypatch, whole, step, number
):
    take = Stepper.__call__

    def interrupted(self, batch, meter, tally):
        if batch.step == step:
            os.kill(os.getpid(), number)
        take(self, batch, meter, tally)

    class ToldToEnd(BaseException):
        pass

    def end(signum, frame):
        raise ToldToEnd

    before = signal.signal(signal.SIGTERM, end)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Stepper, "__call__", interrupted)
            error = KeyboardInterrupt if number == signal.SIGINT else ToldToEnd
            with pytest.raises(error):
                trained(tmp_path)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    kept, words = checkpoint.latest_checkpoint(tmp_path)
    assert (kept.step, words) == (step + 1, [])
    tensors, lines = trained(tmp_path)
    assert same(tensors, whole[0])
    assert lines == whole[1]


def test_a_second_signal_ends_at_once():
    steps = []
    with pytest.raises(KeyboardInterrupt):
        _twice(steps)
    assert steps == ["first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _twice(steps):
    with deferred() as came:
        os.kill(os.getpid(), signal.SIGINT)
        assert came == [signal.SIGINT]
        steps.append("first")
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("second")


def test_what_was_ignored_before_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with deferred() as came:
            os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_a_finished_run_becomes_longer_and_equals_one_that_was_asked_so(tmp_path):
    trained(tmp_path / "run")
    longer = replace(RUN, images=480)
    said = list(floracle.train(network(), digits(), longer, out=tmp_path / "run", look=BLIND))
    assert said[-1].images == 480
    assert said[0].images > 320
    list(floracle.train(network(), digits(), longer, out=tmp_path / "whole", look=BLIND))
    found, expected = (
        checkpoint.read_checkpoint(checkpoint.latest_checkpoint(tmp_path / name)[0])
        for name in ("run", "whole")
    )
    assert same(found, expected)
    with pytest.raises(floracle.InputError) as error:
        list(floracle.train(network(), digits(), RUN, out=tmp_path / "run", look=BLIND))
    assert "images: 480 there, 320 asked" in str(error.value)


def test_a_run_whose_last_batch_is_not_whole_is_not_made_longer(tmp_path):
    cut = replace(RUN, images=100)
    list(floracle.train(network(), digits(), cut, out=tmp_path, look=BLIND))
    with pytest.raises(ValueError, match="whose last batch is not whole"):
        floracle.train(network(), digits(), replace(cut, images=128), out=tmp_path, look=BLIND)
