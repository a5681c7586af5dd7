import pytest

from analysis.printing import joules


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
