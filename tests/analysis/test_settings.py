import json
from hashlib import blake2b

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.settings import settings_without


def names_of(texts, **left_out):
    return pl.DataFrame({"settings": texts}, {"settings": pl.String}).with_columns(settings_without(**left_out))


def without(texts, *names):
    """The short names of the settings."""
    return names_of(texts, left=names)["left"].to_list()


def named(text):
    return None if text is None else blake2b(text.encode(), digest_size=8).hexdigest()


def plainly(text, names):
    try:
        settings = json.loads(text)
    except ValueError:
        return text
    if not isinstance(settings, dict):
        return text
    return json.dumps({name: value for name, value in settings.items() if name not in names}, sort_keys=True)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"a":1,"seed":3}', '{"a": 1}'),
        ('{"seed": 3, "a": 1}', '{"a": 1}'),
        ('{"a":{"seed":5},"seed":4}', '{"a": {"seed": 5}}'),
        ('{"a":[{"seed":"x"}]}', '{"a": [{"seed": "x"}]}'),
        ('{"a":"\\"seed\\":5","seed":1}', '{"a": "\\"seed\\":5"}'),
        ('{"seed":{"deep":1},"finetuned":"ab12"}', "{}"),
        ('{"seed":"a\\"b","z":0}', '{"z": 0}'),
        ('torn "seed":5', 'torn "seed":5'),
        ('["seed"]', '["seed"]'),
        ("", ""),
        (None, None),
    ],
)
def test_a_name_at_the_top_is_left_out_and_nothing_else(text, left):
    assert without([text, text], "seed", "finetuned") == [named(left)] * 2


def test_texts_that_differ_further_down_stay_apart():
    texts = [f'{{"data":{{"seed":{inner}}},"seed":{outer}}}' for inner in (1, 2) for outer in (1, 2)]
    assert without(texts, "seed") == [named('{"data": {"seed": 1}}')] * 2 + [named('{"data": {"seed": 2}}')] * 2


def test_no_rows_have_no_settings():
    assert without([], "seed") == []


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=True)
    | st.sampled_from(["", "x", '"seed":1', "\\"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["seed", "b", "c"]), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.builds(
            lambda value, compact: json.dumps(value, separators=(",", ":") if compact else None, sort_keys=compact),
            st.dictionaries(st.sampled_from(["seed", "finetuned", "a", "b"]), VALUES, max_size=4) | VALUES,
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_it_is_what_reading_every_text_gives(texts):
    names = ("seed", "finetuned")
    found = names_of(texts, own=names, kin=(*names, "a"))
    assert found["own"].to_list() == [named(plainly(text, names)) for text in texts]
    assert found["kin"].to_list() == [named(plainly(text, (*names, "a"))) for text in texts]
