"""The loss: by hand, against torch's own, folded and unfolded, in half precision, and from samples."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_scoring import N_ITEMS, POPULARITY, LastItem, random_model, small_model

import losses
from losses import FullSoftmaxLoss, Negatives, next_item_loss, pick_precision
from models import NEURAL_MODELS
from process_data import Batch, Sessions, TrainDataset, get_dataloader


def batch(x, y, w):
    return Batch(torch.tensor(x), torch.tensor(y), torch.tensor(w, dtype=torch.float))


def test_loss_by_hand():
    """Items 1 and 2 sit at 1 and -1: after item 1 their scores are 1 and -1, after 2 the reverse."""
    model = LastItem([[1], [-1]])
    stay, leave = math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))
    loss = next_item_loss(model, batch([[1, 2], [2, 0]], [[2, 2], [2, 0]], [[3, 0.5], [2, 0]]))
    assert loss.item() == pytest.approx(3 * leave + 0.5 * stay + 2 * stay)


def test_padding_has_no_share_in_the_loss():
    """One item alone is certain; with padding as a class its loss would be log 2 here."""
    assert next_item_loss(LastItem([[0]]), batch([[1]], [[1]], [[1]])).item() == 0
    model = LastItem([[1], [-1]])
    next_item_loss(model, batch([[1, 2]], [[2, 1]], [[1, 1]])).backward()
    assert model.embedding.weight.grad[0] == 0
    assert model.embedding.weight.grad[1] != 0


def test_steps_without_target_do_not_count():
    model = random_model()
    plain = next_item_loss(model, batch([[3, 4]], [[4, 9]], [[1, 2]]))
    # A step without target, a row of them, and padding, all of a weight that must not matter.
    more = batch([[3, 4, 0], [5, 7, 8]], [[4, 9, 0], [0, 0, 0]], [[1, 2, 7], [7, 7, 7]])
    assert next_item_loss(model, more).item() == pytest.approx(plain.item())
    nothing = next_item_loss(model, batch([[3, 4]], [[0, 0]], [[1, 1]]))
    assert nothing.item() == 0
    nothing.backward()


def prefix_rows(seed=0):
    """Rows of 15 users, some of whom lack the first or a middle one of their rows."""
    generator = np.random.default_rng(seed)
    lists, labels, users = [], [], []
    for user in range(15):
        session = generator.integers(1, N_ITEMS + 1, generator.integers(2, 8)).tolist()
        for t in range(1, len(session)):
            if t == len(session) - 1 or generator.random() < 0.7:
                lists.append(session[:t])
                labels.append(session[t])
                users.append(user)
    return Sessions.from_lists(lists, labels, users)


def epoch_of(model, dataset, batch_size):
    """Mean loss and its gradients over an epoch; the division is by the epoch's weight, a constant."""
    model.zero_grad()
    total = 0.0
    for b in get_dataloader(dataset, batch_size=batch_size):
        loss = next_item_loss(model, b) / dataset.total_weight
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return total, gradients


def check_folding(model):
    """Folded rows have the epoch's loss and gradients of the rows themselves."""
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
def test_folding_would_change_a_model_that_sees_the_future(name):
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
def test_fused_loss_and_gradients_are_torchs_own(chunk, monkeypatch):
    monkeypatch.setitem(losses._CHUNK_STEPS, "cpu", chunk)
    inputs = product_inputs()
    fused, wanted = FullSoftmaxLoss.apply(*inputs, torch.float32), torchs_own(*inputs)
    assert fused.item() == pytest.approx(wanted.item(), rel=1e-5)
    ours, theirs = (gradients(loss * 0.3, *inputs[:2]) for loss in (fused, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_label_smoothing_is_torchs_own():
    model = random_model(score="learned")
    rows = batch([[3, 4, 0], [5, 7, 8]], [[4, 9, 0], [0, 2, 6]], [[1, 2, 7], [7, 0.5, 1]])
    smooth = next_item_loss(model, rows, smoothing=0.1)
    smooth.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert got["log_gain"].abs() > 1e-3  # the learned scale is learned
    model.zero_grad()
    wanted = rows.y > 0
    logits = model.query(model(rows.x)[wanted]) @ model.item_matrix()[1:].T
    losses = F.cross_entropy(logits, rows.y[wanted] - 1, label_smoothing=0.1, reduction="none")
    (losses @ rows.w[wanted]).backward()
    assert smooth.item() == pytest.approx((losses @ rows.w[wanted]).item(), rel=1e-5)
    for name, p in model.named_parameters():
        assert torch.allclose(got[name], p.grad, atol=1e-5), name


def test_fused_loss_in_half_precision_is_close():
    inputs = product_inputs()
    fused, wanted = FullSoftmaxLoss.apply(*inputs, torch.bfloat16), torchs_own(*inputs)
    assert fused.dtype == torch.float32
    assert fused.item() == pytest.approx(wanted.item(), rel=0.02)
    assert fused.item() != pytest.approx(wanted.item(), rel=1e-6)  # it was another precision
    for ours, theirs in zip(gradients(fused, *inputs[:2]), gradients(wanted, *inputs[:2]), strict=True):
        assert torch.linalg.norm(ours - theirs) < 0.02 * torch.linalg.norm(theirs)


def test_a_hopeless_step_has_the_right_gradient():
    """A target 200 below the best: its probability is 0 in float32, and it is still pulled up."""
    queries = torch.tensor([[1.0]], requires_grad=True)
    items = torch.tensor([[0.0], [100.0], [-100.0]], requires_grad=True)
    loss = FullSoftmaxLoss.apply(queries, items, torch.tensor([2]), torch.ones(1), torch.float32)
    assert 80 < loss.item() < math.inf
    loss.backward()
    assert items.grad[:, 0].tolist() == [0, 1, -1]


def test_a_loss_that_is_not_a_number_stays_one():
    queries = torch.tensor([[math.nan]], requires_grad=True)
    loss = FullSoftmaxLoss.apply(queries, torch.ones(3, 1), torch.tensor([2]), torch.ones(1), torch.float32)
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
# Sampled negatives


def test_negatives_are_drawn_by_popularity():
    torch.manual_seed(0)
    negatives = Negatives(POPULARITY, 200_000, power=0.5)
    drawn, log_expected = negatives.draw()
    weights = np.sqrt(POPULARITY + 1.0)
    weights[0] = 0
    expected = 200_000 * weights / weights.sum()
    assert np.bincount(drawn, minlength=N_ITEMS + 1) == pytest.approx(expected, abs=700)  # 5 sigma
    assert log_expected.numpy() == pytest.approx(np.log(expected[drawn]), abs=1e-4)


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_sampled_loss_nears_the_full_one(score):
    """Its exponential is unbiased, so with many samples loss and gradients are the full softmax's."""
    torch.manual_seed(0)
    model = random_model(score=score, scale=3.0)
    b = batch([[3, 4, 0], [5, 7, 8]], [[4, 9, 0], [7, 8, 2]], [[1, 2, 0], [1, 1, 3]])
    full = next_item_loss(model, b)
    sampled = next_item_loss(model, b, negatives=Negatives(POPULARITY, 300_000))
    assert sampled.item() == pytest.approx(full.item(), rel=5e-3)
    ours, theirs = (gradients(loss, model.embedding.weight)[0] for loss in (sampled, full))
    assert torch.linalg.norm(ours - theirs) < 0.02 * torch.linalg.norm(theirs)


def test_sampled_loss_without_the_correction_would_not(monkeypatch):
    torch.manual_seed(0)
    model = random_model()
    b = batch([[3, 4]], [[4, 9]], [[1, 2]])
    draw = Negatives.draw
    monkeypatch.setattr(Negatives, "draw", lambda self: (draw(self)[0], torch.zeros(self.count)))
    sampled = next_item_loss(model, b, negatives=Negatives(POPULARITY, 300_000))
    assert sampled.item() > 2 * next_item_loss(model, b).item()


def test_gradient_of_the_sampled_loss_can_be_sparse():
    """Only what the step uses is touched, and by the same gradient."""
    b = batch([[3, 4]], [[4, 9]], [[1, 2]])
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = random_model(score="cosine")
        model.embedding.sparse = sparse
        next_item_loss(model, b, negatives=Negatives(POPULARITY, 2)).backward()
        found.append(model.embedding.weight.grad)
    assert found[1].is_sparse and found[1].coalesce().indices().numel() <= 5
    torch.testing.assert_close(found[1].to_dense(), found[0])


def test_no_negatives_is_an_error():
    with pytest.raises(ValueError, match="negatives=0: must be at least 1"):
        Negatives(POPULARITY, 0)
