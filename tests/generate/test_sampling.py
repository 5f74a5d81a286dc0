"""Which token comes next: a hand-written table."""

import jax
import numpy as np
import pytest

from inf_former_jax import generate

PROBS = np.array([0.1, 0.5, 0.15, 0.25])


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, PROBS),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_k": 99}, PROBS),
        ({"top_p": 0.01}, [0, 1, 0, 0]),
        ({"top_p": 0.49}, [0, 1, 0, 0]),
        ({"top_p": 0.51}, [0, 2 / 3, 0, 1 / 3]),
        ({"top_p": 0.76}, [0, 5 / 9, 1 / 6, 5 / 18]),
        ({"top_p": 0.8, "top_k": 3}, [0, 2 / 3, 0, 1 / 3]),
        ({"temperature": 0.5}, PROBS**2 / (PROBS**2).sum()),
        ({"temperature": 0.5, "top_p": 0.8}, [0, 0.8, 0, 0.2]),
        ({"temperature": 1e-38}, [0, 1, 0, 0]),
        ({"temperature": 1e-300, "top_p": 0.9}, [0, 1, 0, 0]),
        ({"temperature": 1e38}, [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_sample_by_hand(options, expected):
    """Frequencies of 8,000 draws within 4 standard errors; what is cut never comes."""
    logits = np.tile(np.log(PROBS), (8000, 1))
    drawn = np.asarray(generate.sample(logits, jax.random.key(0), **options))
    found = np.bincount(drawn, minlength=4) / len(drawn)
    expected = np.asarray(expected)
    np.testing.assert_array_equal(found > 0, expected > 0)
    assert (abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / len(drawn))).all()


def test_a_mass_of_exactly_top_p_is_enough():
    """Of four equal tokens the first two have the mass .5: no third one is drawn."""
    drawn = generate.sample(np.zeros((200, 4)), jax.random.key(0), top_p=0.5)
    assert set(np.asarray(drawn).tolist()) == {0, 1}
