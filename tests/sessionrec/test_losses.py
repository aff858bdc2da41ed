"""Losses: by hand, compared with torch, with folded rows, in half precision, and with sampled negatives."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import N_ITEMS, POPULARITY, LastItem, random_model, small_model

from models import NEURAL_MODELS
from process_data import Batch, Sessions, TrainDataset, get_dataloader
from sessionrec import losses
from sessionrec.losses import SampledSoftmax, batch_loss, full_softmax, pick_precision

EXACT = partial(full_softmax, precision="fp32")


def loss_of(model, batch, loss=EXACT):
    return batch_loss(model, batch, loss)


def batch(x, y, w):
    return Batch(torch.tensor(x), torch.tensor(y), torch.tensor(w, dtype=torch.float))


def test_loss_by_hand():
    """The vectors of items 1 and 2 are 1 and -1, so after item 1 their scores are 1 and -1, and after 2 the reverse."""
    model = LastItem([[1], [-1]])
    stay, leave = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    loss = loss_of(model, batch([[1, 2], [2, 0]], [[2, 2], [2, 0]], [[3, 0.5], [2, 0]]))
    assert loss.item() == pytest.approx(3 * leave + 0.5 * stay + 2 * stay)


def test_padding_does_not_affect_the_loss():
    """With one item its probability is 1. If padding were a class, the loss would be log 2."""
    assert loss_of(LastItem([[0]]), batch([[1]], [[1]], [[1]])).item() == 0
    model = LastItem([[1], [-1]])
    loss_of(model, batch([[1, 2]], [[2, 1]], [[1, 1]])).backward()
    assert model.embedding.weight.grad[0] == 0
    assert model.embedding.weight.grad[1] != 0


def test_steps_without_target_are_ignored():
    model = random_model()
    plain = loss_of(model, batch([[3, 4]], [[4, 9]], [[1, 2]]))
    # A step without target, a row of such steps, and padding. Their weights must be ignored.
    more = batch([[3, 4, 0], [5, 7, 8]], [[4, 9, 0], [0, 0, 0]], [[1, 2, 7], [7, 7, 7]])
    assert loss_of(model, more).item() == pytest.approx(plain.item())
    nothing = loss_of(model, batch([[3, 4]], [[0, 0]], [[1, 1]]))
    assert nothing.item() == 0
    nothing.backward()


def test_several_targets_a_step_are_the_sum_of_their_losses():
    """Soft targets: y and w are (B, L, M), and 0 is no target."""
    y, w = [[[4, 9, 2], [9, 0, 0]]], [[[0.5, 1.5, 1], [2, 0, 0]]]
    model = random_model()
    together = loss_of(model, batch([[3, 4]], y, w))
    together.backward()
    gradient = model.embedding.weight.grad.clone()
    model.zero_grad()
    losses_of_one = [loss_of(model, batch([[3, 4]], [[s[m] for s in y[0]]], [[s[m] for s in w[0]]])) for m in range(3)]
    sum(losses_of_one).backward()
    assert together.item() == pytest.approx(sum(loss.item() for loss in losses_of_one))
    torch.testing.assert_close(gradient, model.embedding.weight.grad)


def prefix_rows(seed=0):
    """Rows of 15 users. For some of them, the first or a middle row is missing."""
    generator = np.random.default_rng(seed)
    lists, labels, users = [], [], []
    for user in range(15):
        session = generator.integers(1, N_ITEMS + 1, generator.integers(2, 8)).tolist()
        for t in range(1, len(session)):
            if t == len(session) - 1 or generator.random() < 0.7:
                lists.append(session[:t])
                labels.append(session[t])
                users.append(user)
    return Sessions.from_lists(lists, labels, users, n_items=N_ITEMS)


def epoch_of(model, dataset, batch_size):
    """Mean loss of an epoch and its gradients, divided by the total weight."""
    model.zero_grad()
    total = 0.0
    for b in get_dataloader(dataset, batch_size=batch_size):
        loss = loss_of(model, b) / dataset.total_weight
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return total, gradients


def check_folding(model):
    """Check that folded rows have the same loss and gradients in an epoch as the rows."""
    rows = prefix_rows()
    folded, unfolded = TrainDataset(rows), TrainDataset(rows, fold=False)
    assert len(folded) == 15 < len(unfolded) == len(rows)
    assert folded.total_weight == unfolded.total_weight == len(rows.items)
    loss, gradients = epoch_of(model, folded, batch_size=4)
    want, wanted = epoch_of(model, unfolded, batch_size=7)
    torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-4)
    assert loss == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_folded_rows_have_the_loss_and_gradients_of_the_rows(name):
    check_folding(small_model(name))


@pytest.mark.parametrize("name", ["GRUwATT", "GGNNwATT"])
def test_folding_changes_a_model_that_is_not_causal(name):
    with pytest.raises(AssertionError, match="not close"):
        check_folding(small_model(name, causal=False))


# --------------------------------------------------------------------------------------------------
# The fused function


def product_inputs(dtype=torch.float32, steps=11, items=30, width=8):
    """Queries, items, targets, weights of P steps; scores of up to about 10."""
    torch.manual_seed(1)
    queries = (torch.randn(steps, width) * 1.5).to(dtype).requires_grad_()
    catalogue = (torch.randn(items + 1, width)).to(dtype).requires_grad_()
    return queries, catalogue, torch.randint(1, items + 1, (steps,)), torch.rand(steps) * 3


def torchs_own(queries, catalogue, targets, weights):
    scores = F.linear(queries.double(), catalogue.double())[:, 1:]
    return F.cross_entropy(scores, targets - 1, reduction="none") @ weights.double()


def gradients(loss, *inputs):
    return [gradient.float() for gradient in torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_fused_loss_and_gradients_equal_torch(chunk, monkeypatch):
    monkeypatch.setitem(losses._CHUNK_STEPS, "cpu", chunk)
    inputs = product_inputs()
    fused, wanted = full_softmax(*inputs, precision="fp32"), torchs_own(*inputs)
    assert fused.item() == pytest.approx(wanted.item(), rel=1e-5)
    computed, expected_gradients = (gradients(loss * 0.3, *inputs[:2]) for loss in (fused, wanted))
    torch.testing.assert_close(computed, expected_gradients, atol=1e-5, rtol=1e-4)


def test_fused_loss_in_half_precision_is_close():
    inputs = product_inputs()
    fused, wanted = full_softmax(*inputs, precision="bf16"), torchs_own(*inputs)
    assert fused.dtype == torch.float32
    assert fused.item() == pytest.approx(wanted.item(), rel=0.02)
    assert fused.item() != pytest.approx(wanted.item(), rel=1e-6)  # the precision differs
    for computed, expected_gradients in zip(gradients(fused, *inputs[:2]), gradients(wanted, *inputs[:2]), strict=True):
        assert torch.linalg.norm(computed - expected_gradients) < 0.02 * torch.linalg.norm(expected_gradients)


def test_a_target_of_probability_zero_has_the_right_gradient():
    """A target with a score 200 below the best has probability 0 in float32, but its gradient is not 0."""
    queries = torch.tensor([[1.0]], requires_grad=True)
    items = torch.tensor([[0.0], [100.0], [-100.0]], requires_grad=True)
    loss = full_softmax(queries, items, torch.tensor([2]), torch.ones(1), precision="fp32")
    assert 80 < loss.item() < math.inf
    loss.backward()
    assert items.grad[:, 0].tolist() == [0, 1, -1]


def test_nan_is_propagated():
    queries = torch.tensor([[math.nan]], requires_grad=True)
    loss = full_softmax(queries, torch.ones(3, 1), torch.tensor([2]), torch.ones(1), precision="fp32")
    assert math.isnan(loss.item())


def test_precision_by_name(monkeypatch):
    cpu = torch.device("cpu")
    assert pick_precision("fp32", cpu) == torch.float32
    assert pick_precision("bf16", cpu) == torch.bfloat16
    for flag in ("avx512_bf16", "amx_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flag=flag: {flag: True})
        assert pick_precision("auto", cpu) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert pick_precision("auto", cpu) == torch.float32
    with pytest.raises(ValueError, match="choose 'auto', 'fp32' or 'bf16'"):
        pick_precision("fp16", cpu)


# --------------------------------------------------------------------------------------------------
# A new loss


def own_softmax(queries, items, targets, weights):
    """The full softmax as a plain function."""
    logits = queries @ items.T
    logits[:, 0] = -math.inf
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_a_new_loss_has_the_gradients_of_its_formula(name, score):
    b = batch([[3, 4, 0], [5, 7, 8]], [[4, 9, 0], [0, 2, 6]], [[1, 2, 7], [7, 0.5, 1]])
    found = []
    for loss in (EXACT, own_softmax):
        model = small_model(name, score=score)
        value = loss_of(model, b, loss)
        value.backward()
        found.append((value.item(), {key: p.grad for key, p in model.named_parameters()}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)
    assert found[0][1]["embedding.weight"].abs().sum() > 0


def test_a_loss_gets_only_the_steps_with_a_target():
    seen = []
    model = random_model()
    b = batch([[3, 4, 0], [5, 7, 8]], [[4, 9, 0], [0, 2, 6]], [[1, 2, 7], [7, 0.5, 1]])
    loss_of(model, b, lambda q, e, y, w: seen.extend([q, e, y, w]) or q.sum())
    queries, items, targets, weights = seen
    assert queries.shape == (4, 4) and items.shape == (N_ITEMS + 1, 4)
    assert targets.tolist() == [4, 9, 2, 6] and weights.tolist() == [1, 2, 0.5, 1]
    assert torch.equal(queries, model.embedding.weight[[3, 4, 7, 8]])
    assert torch.equal(items, model.embedding.weight)


# --------------------------------------------------------------------------------------------------
# Sampled negatives


def test_negatives_are_drawn_by_popularity():
    torch.manual_seed(0)
    negatives = SampledSoftmax(POPULARITY, 200_000, power=0.5)
    drawn, log_expected = negatives.draw()
    weights = np.sqrt(POPULARITY + 1.0)
    weights[0] = 0
    expected = 200_000 * weights / weights.sum()
    assert np.bincount(drawn, minlength=N_ITEMS + 1) == pytest.approx(expected, abs=700)  # 5 sigma
    assert log_expected.numpy() == pytest.approx(np.log(expected[drawn]), abs=1e-4)


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_sampled_loss_approximates_the_full_loss(score):
    """With many samples, loss and gradients are close to those of the full softmax."""
    torch.manual_seed(0)
    model = random_model(score=score, scale=3.0)
    b = batch([[3, 4, 0], [5, 7, 8]], [[4, 9, 0], [7, 8, 2]], [[1, 2, 0], [1, 1, 3]])
    full = loss_of(model, b)
    sampled = loss_of(model, b, SampledSoftmax(POPULARITY, 300_000, precision="fp32"))
    assert sampled.item() == pytest.approx(full.item(), rel=5e-3)
    computed, expected_gradients = (gradients(loss, model.embedding.weight)[0] for loss in (sampled, full))
    assert torch.linalg.norm(computed - expected_gradients) < 0.02 * torch.linalg.norm(expected_gradients)


def test_sampled_loss_without_the_correction_does_not(monkeypatch):
    torch.manual_seed(0)
    model = random_model()
    b = batch([[3, 4]], [[4, 9]], [[1, 2]])
    draw = SampledSoftmax.draw
    monkeypatch.setattr(SampledSoftmax, "draw", lambda self: (draw(self)[0], torch.zeros(self.negatives)))
    sampled = loss_of(model, b, SampledSoftmax(POPULARITY, 300_000, precision="fp32"))
    assert sampled.item() > 2 * loss_of(model, b).item()


def test_gradient_of_the_sampled_loss_can_be_sparse():
    """The sparse gradient has only the rows that the step uses, and they equal the dense gradient."""
    b = batch([[3, 4]], [[4, 9]], [[1, 2]])
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = random_model(score="cosine")
        model.embedding.sparse = sparse
        loss_of(model, b, SampledSoftmax(POPULARITY, 2, precision="fp32")).backward()
        found.append(model.embedding.weight.grad)
    assert found[1].is_sparse and found[1].coalesce().indices().numel() <= 5
    torch.testing.assert_close(found[1].to_dense(), found[0])


def test_no_negatives_is_an_error():
    with pytest.raises(ValueError, match="negatives=0: must be a whole number of at least 1"):
        SampledSoftmax(POPULARITY, 0)
