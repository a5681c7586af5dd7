import pytest

from analysis.printing import joules, number, plain


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "? J"),
        (0.0, "0 J"),
        (0.0123, "0.0123 J"),
        (999_999.0, "999,999 J"),
        (3.6e6, "1 kWh"),
        (645_354_749.0, "179 kWh"),
    ],
)
def test_joules_of_a_sweep_are_told_as_people_pay_for_them(value, said):
    assert joules(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0, 0.0, 1 / 3], "1, 0, 0.333"),
        ([1.0] * 200, "1, 1, 1, 1, 1 and 195 more"),
        (["a", "b"], "a, b"),
        ([1, 2, 3, 4, 5, 6, 7], "1, 2, 3, 4, 5, 6, 7"),
        ([], ""),
    ],
)
def test_of_many_numbers_a_table_shows_the_first(value, said):
    assert plain(value).plain == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(999.4, "999"), (999.7, "1,000"), (-999.7, "-1,000"), (0.9996, "1"), (1e9, "1e+09"), (None, "?")],
)
def test_what_rounds_to_a_thousand_is_written_out(value, said):
    assert number(value) == said
