"""Nested state as tensors and JSON, and back."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.store.files import RunError
from mmlib.store.weights import flatten, unflatten

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
tensors = st.builds(lambda shape, dtype: torch.ones(shape, dtype=dtype),
                    st.lists(st.integers(0, 3), max_size=3), dtypes)
nested = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(nested)
@settings(max_examples=150)
def test_flatten_and_unflatten_are_inverse_even_through_json(state):
    found, structure = flatten(state)
    assert same(state, unflatten(found, json.loads(json.dumps(structure))))


def test_flatten_names_the_place_of_what_it_cannot_hold():
    with pytest.raises(RunError, match=r"model.*hook.*function"):
        flatten({"model": {"hook": lambda: None}})
    with pytest.raises(RunError, match="key"):
        flatten({(1, 2): 0})
