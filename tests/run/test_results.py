"""Results and their settings: which results answer a request, also those of earlier versions."""

import pytest
import torch

from floracle.run import results
from floracle.run.errors import InputError
from floracle.run.output_folder import open_output
from floracle.run.results import Results, differences, save, setting_of, stored_answer


def result(**settings):
    return Results("numbers", settings, {"value": 1.0}, {"x": torch.arange(3)})


def test_settings_that_differ_are_named():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 2}) == []
    assert differences({"a": 1, "b": 2}, {"a": 1}) == ["b: None there, 2 asked"]
    assert differences({"a": 1}, {"a": 3, "b": 2}) == [
        "a: 3 there, 1 asked",
        "b: 2 there, None asked",
    ]


@pytest.mark.parametrize(
    ("former", "latter"), [({}, {"path": "linear"}), ({"path": "linear"}, {})]
)
def test_a_result_without_the_path_is_one_of_the_linear_path(tmp_path, former, latter):
    save(result(seed=0, **former), tmp_path)
    assert setting_of(former, "path") == "linear"
    assert stored_answer(tmp_path, {"seed": 0, **latter}) is not None
    with pytest.raises(InputError, match=r"path: 'linear' there, 'cosine' asked"):
        stored_answer(tmp_path, {"seed": 0, "path": "cosine"})


def test_a_setting_added_later_spoils_no_earlier_result_or_run(tmp_path, monkeypatch):
    save(result(seed=0), tmp_path / "result")
    with open_output(tmp_path / "run", "stages", {"seed": 0}) as output:
        output.save_part(result(), "part")
    requested = {"seed": 0, "new": 8}
    with pytest.raises(InputError, match="new: None there, 8 asked"):
        stored_answer(tmp_path / "result", requested)
    monkeypatch.setattr(results, "SETTINGS_ADDED_LATER", {"new": 8})
    assert stored_answer(tmp_path / "result", requested) is not None
    with open_output(tmp_path / "run", "stages", requested) as output:
        assert output.resumed
        assert output.load_part("part") is not None
    with pytest.raises(InputError, match="new: 8 there, 9 asked"):
        stored_answer(tmp_path / "result", {"seed": 0, "new": 9})
