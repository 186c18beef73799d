from floracle.run.progress import track


def test_items_pass_in_order_and_nothing_is_printed_where_nobody_watches(capfd):
    assert list(track(iter("abc"), "letters", total=3)) == ["a", "b", "c"]
    assert list(track([1], "quiet", total=1, quiet=True)) == [1]
    assert capfd.readouterr() == ("", "")


def test_items_are_drawn_one_at_a_time():
    drawn = []
    items = track((drawn.append(i) or i for i in range(5)), "lazy", total=5)
    assert next(items) == 0
    assert drawn == [0]
