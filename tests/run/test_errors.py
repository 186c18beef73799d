from floracle.run.errors import InputError, suggestion


def test_the_nearest_name_is_suggested():
    assert suggestion("eular", ["heun", "euler", "rk4"]) == "did you mean 'euler'?"


def test_far_from_every_name_all_are_listed():
    assert suggestion("xyz", ["heun", "euler"]) == "one of: heun, euler"
    assert suggestion("xyz", iter(["heun", "euler"])) == "one of: heun, euler"


def test_a_mistake_is_a_value_error():
    assert issubclass(InputError, ValueError)
