from mambalab.utils.mapping import flatten

NESTED = {"a": 1, "b": {"c": None, 2: {"d": [3]}}, "e": {}}


def test_names_are_dotted_and_empty_mappings_are_values():
    assert flatten(NESTED) == {"a": 1, "b.c": None, "b.2.d": [3], "e": {}}
    assert flatten({}) == {}


def test_what_is_nested_too_deep_is_one_value():
    assert flatten(NESTED, max_depth=2) == {"a": 1, "b.c": None, "b.2": {"d": [3]}, "e": {}}
    loop: dict = {}
    loop["x"] = loop
    assert flatten(loop, max_depth=3) == {"x.x.x": loop}
