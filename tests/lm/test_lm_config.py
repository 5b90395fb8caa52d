"""The presets are the published ones, their schedules too, and a bad setting is named."""

import dataclasses

import pytest

from lm.config import PRESETS

# layers, H, T, keep, lr, decay, flat epochs, epochs, clip, init. The first three are those of
# TensorFlow's tutorial, whose first releases decayed from one epoch later on than its last ones.
PUBLISHED = {
    "small": (2, 200, 20, 1.0, 1.0, 0.5, 5, 13, 5, 0.1),
    "medium": (2, 650, 35, 0.5, 1.0, 0.8, 7, 39, 5, 0.05),
    "large": (2, 1500, 35, 0.35, 1.0, 1 / 1.15, 15, 55, 10, 0.04),
    "blog": (2, 1500, 35, 0.35, 20, 1 / 1.15, 14, 40, 0.25, 0.1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_is_the_published_one(name):
    c = PRESETS[name]
    assert PUBLISHED[name] == (
        *(c.num_layers, c.hidden_size, c.num_steps, c.keep_prob, c.learning_rate, c.lr_decay),
        *(c.flat_epochs, c.epochs, c.max_grad_norm, c.init_scale),
    )
    assert (c.batch_size, c.eval_batch_size, c.test_batch_size) == (20, 20, 1)
    assert c.optimizer == "sgd"
    zaremba = name != "blog"
    assert c.loss_over_time == ("sum" if zaremba else "mean")
    assert c.init_scope == ("all" if zaremba else "softmax")


@pytest.mark.parametrize("name", ["small", "medium", "large"])
def test_zarembas_rate_decays_from_the_first_one(name):
    c = PRESETS[name]
    expected = [
        c.learning_rate * c.lr_decay ** max(epoch + 1 - c.flat_epochs, 0)
        for epoch in range(c.epochs)
    ]
    rates = [c.learning_rate_at(epoch) for epoch in range(c.epochs)]
    assert rates == pytest.approx(expected)
    assert rates[c.flat_epochs - 1] == 1.0 > rates[c.flat_epochs]


def test_the_blogs_rate_compounds():
    c = PRESETS["blog"]
    rate, expected = 20.0, []
    for epoch in range(c.epochs):
        rate = rate * (1 / 1.15) ** max(epoch - 14, 0)
        expected.append(rate)
    assert [c.learning_rate_at(epoch) for epoch in range(c.epochs)] == pytest.approx(expected)
    assert expected[14] == 20.0 > expected[15] > expected[16] * 1.3


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_by_name(schedule, expected):
    c = dataclasses.replace(PRESETS["small"], lr_schedule=schedule, flat_epochs=1, epochs=5)
    assert [c.learning_rate_at(epoch) for epoch in range(5)] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", True),
        ("num_steps", "20"),
        ("keep_prob", 0.0),
        ("keep_prob", 1.01),
        ("learning_rate", float("nan")),
        ("max_grad_norm", float("inf")),
        ("optimizer", "adagrad"),
        ("loss_over_time", 1),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_setting(name, value):
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(PRESETS["small"], **{name: value})


def test_whole_numbers_serve_where_numbers_are_wanted():
    assert dataclasses.replace(PRESETS["small"], learning_rate=1).learning_rate == 1
