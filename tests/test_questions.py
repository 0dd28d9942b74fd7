"""The promises of `nnexp.questions`, a sentence each."""

import numpy as np
import pytest
from tables import most

from nnexp import questions, statistics


def test_best_epoch_is_chosen_by_the_other_seeds():
    """By hand: seed 0 is lowest at epoch 1, the others at epoch 2; each is measured where the *others* are lowest."""
    losses = np.array([[0.1, 0.6, 0.7], [0.5, 0.3, 0.6], [0.6, 0.2, 0.5]])
    rises, epochs = questions.rise_since_best_epoch(losses, losses[:, -1])
    assert epochs.tolist() == [2, 1, 1]  # others' sums: [1.1 .5 1.1], [.7 .8 1.2], [.6 .9 1.3]
    assert rises == pytest.approx([0.1, 0.1, -0.1])


def test_best_other_is_chosen_by_the_other_seeds():
    """By hand: a seed's lead is that of the setting which leads on the other seeds, never of the setting itself."""
    test = np.array([[0.5, 0.5, 0.5], [0.9, 0.1, 0.1], [0.2, 0.3, 0.4]])
    lead, which = questions.lead_of_best_other([(test, np.zeros((3, 3)))])
    assert which.tolist() == [[2, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert lead[0] == pytest.approx([0.2, 0.1, 0.1])


def test_best_other_has_the_seed_and_two_more_in_common():
    """A setting that lacks the seed, or shares only one more, is not chosen however well it scores; the next one is."""
    test = np.array([[0.5, 0.5, 0.5, np.nan], [0.9, 0.9, np.nan, 0.9], [0.6, 0.6, 0.6, 0.6], [np.nan, 0.1, 0.8, 0.8]])
    lead, which = questions.lead_of_best_other([(test, test - test)])
    assert which[0].tolist() == [2, 2, 2, -1]  # setting 1 shares one more seed on seeds 0 and 1, and has no seed 2
    assert which[2].tolist() == [1, 1, 0, 1]
    assert lead[2] == pytest.approx([0.9, 0.9, 0.5, 0.9])
    assert np.isnan(lead[0, 3])
    negative, which = questions.lead_of_best_other([(test - 1, test - test)])
    assert which[0].tolist() == [2, 2, 2, -1]
    assert negative[0, 0] == pytest.approx(-0.4)


def test_incomplete_and_complete_tables_choose_alike():
    """A further seed that nobody has changes nothing (the quick route and the matrix products agree)."""
    test = np.random.default_rng(3).random((5, 4))
    train = np.random.default_rng(4).random((5, 4))
    gap = np.full((5, 1), np.nan)
    parts = [(test, test), (-train, -train)]
    wider = [(np.hstack([a, gap]), np.hstack([b, gap])) for a, b in parts]
    (lead, which), (other_lead, other_which) = questions.lead_of_best_other(parts), questions.lead_of_best_other(wider)
    assert (which == other_which[:, :4]).all()
    assert lead == pytest.approx(other_lead[:, :4])


@pytest.mark.parametrize("epochs", [5, 20])
def test_flat_curves_rarely_rise(epochs):
    """Tested at 5 %, at most 5 % of flat noisy curves rise - where their own minimum says so in most of them."""
    rng = np.random.default_rng(epochs)
    curves = 0.35 + 0.008 * rng.standard_normal((2000, 5, epochs))
    rises = np.array([questions.rise_since_best_epoch(c, c[:, -1])[0] for c in curves])
    naive = curves[:, :, -1] - curves.min(2)
    assert (statistics.paired_t(rises, 1e-4, chosen=True).p <= 0.05).mean() <= most(2000, 0.05)
    assert (statistics.paired_t(rises, 1e-4).p <= 0.05).mean() > 0.06  # why the standard error is widened
    assert (statistics.paired_t(naive, 1e-4).p <= 0.05).mean() > 0.5


def test_a_setting_is_no_other_to_itself():
    """A setting whose test accuracy is two points above its train accuracy still fits well beside a worse one."""
    noise = 0.001 * np.random.default_rng(0).standard_normal((4, 5))
    train, test = np.array([[0.85], [0.80]]) + noise[:2], np.array([[0.87], [0.70]]) + noise[2:]
    nothing = np.full((2, 5), np.nan)
    runs = np.array([["a"] * 5, ["b"] * 5], dtype=object)
    group = questions.Group(["a", "b"], ["a", "b"], runs, train, test, nothing, np.isfinite(nothing), 1e-4)
    below, beaten = questions.ask_good_fit(group, np.array([0]), 0.05)
    assert below.yes[0] and beaten.yes[0] and below.other == ["b"]
