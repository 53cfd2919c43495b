"""The dealing of images, the length of runs, and what a step of several images does to learning rates."""

from __future__ import annotations

import math
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splatkit_ns.parts.steps import is_due, reaches_one_of
from splatkit_ns.plugin.data.sampling.dealing import DealtImages
from splatkit_ns.plugin.data.sampling.image_work import ImageWork
from splatkit_ns.plugin.optimizers import ExponentialDecayConfig, FusedAdamConfig, make_optimizers
from splatkit_ns.plugin.run.checkpoints.batch_scale import moments_of, of_images, of_one_image, snap_rates
from splatkit_ns.plugin.run.checkpoints.rates import use_changed_moments
from splatkit_ns.plugin.run.processes.together import Together
from splatkit_ns.ranks import Ranks


class Images:
    """Draws rounds of images."""

    def __init__(self, number: int) -> None:
        self.number, self.random_generator = number, random.Random(7)
        self.work, self.copied = ImageWork(), list[int]()
        self.train_unseen_cameras = self.sample_train_cameras()

    def sample_train_cameras(self) -> list[int]:
        order = list(range(self.number))
        self.random_generator.shuffle(order)
        return order

    def expect_views(self, indices: Any, wanted: Any) -> None:
        pass

    def train_view(self, index: int) -> Any:
        return index

    def copy_ahead(self, indices: Any) -> None:
        self.copied = list(indices)


@given(size=st.integers(1, 5), more=st.integers(0, 8), hands=st.integers(1, 40))
def test_hands_are_the_order_of_one_process_and_hold_no_image_twice(size: int, more: int, hands: int) -> None:
    number = size + more
    images = [Images(number) for _ in range(size)]
    dealers = [DealtImages(images[rank], Ranks(rank, size)) for rank in range(size)]
    taken: list[list[Any]] = []
    for step in range(hands):
        copied = [each.copied for each in images]
        taken.append([dealer.next_train(step) for dealer in dealers])
        is_within_round = step % (number // size) > 0 and step < number // size
        assert not is_within_round or copied == [[image] for image in taken[-1]], "each rank copies its own ahead"
    assert all(len(set(hand)) == size for hand in taken)
    one = DealtImages(Images(number), Ranks())
    order: list[Any] = [one.next_train(step) for step in range(hands * size)]
    flat = [image for hand in taken for image in hand]
    counts = [abs(flat.count(image) - order.count(image)) for image in range(number)]
    assert max(counts) <= 1
    assert flat[: number // size * size] == order[: number // size * size], "the first round is the same"


@settings(max_examples=25)
@given(size=st.integers(2, 4), more=st.integers(0, 20), seed=st.integers(0, 99))
def test_images_of_a_hand_are_like_work_and_each_comes_once_in_a_round(size: int, more: int, seed: int) -> None:
    number = 10 * size + more
    works = random.Random(seed).choices(range(1, 1000), k=number)
    dealers = [DealtImages(Images(number), Ranks(rank, size)) for rank in range(size)]
    hands: list[list[Any]] = []
    for step in range(6 * number // size):
        for dealer in dealers:
            dealer.learn([works[image] for image in hands[-2]] if len(hands) > 1 else [0] * size)
        hands.append([dealer.next_train(step) for dealer in dealers])
    assert all(len(set(hand)) == size for hand in hands)
    counts = Counter(image for hand in hands for image in hand)
    assert len(counts) == number
    assert max(counts.values()) - min(counts.values()) <= 1
    waits = [max(works[image] for image in hand) - sum(works[image] for image in hand) / size for hand in hands]
    assert sum(waits[-number:]) / number < 0.85 * sum(waits[: number // size]) / (number // size)


@settings(max_examples=25)
@given(size=st.integers(1, 4), number=st.integers(4, 60), left=st.integers(0, 9))
def test_a_round_that_is_looked_at_is_the_one_that_is_drawn(size: int, number: int, left: int) -> None:
    data = Images(number)
    dealer = DealtImages(data, Ranks(0, size))
    data.work.learn({image: 7 * image % 11 + 1 for image in range(number)})
    while len(data.train_unseen_cameras) > max(left, size):
        dealer.next_hand()
    drawn = list(range(number, 2 * number))  # other images: none is in a hand already
    data.sample_train_cameras = lambda: drawn  # type: ignore[method-assign]
    data.work.learn({image: 7 * image % 11 + 1 for image in drawn})
    state, rest = data.random_generator.getstate(), list(data.train_unseen_cameras)
    expected = rest + data.work.next_round(rest, drawn, data.random_generator)
    data.random_generator.setstate(state)
    found = [image for _ in range(len(expected) // size) for image in dealer.next_hand()]
    assert found[: len(rest) + number - size] == expected[: len(rest) + number - size][: len(found)]


def test_an_order_without_known_work_stays_and_draws_no_numbers() -> None:
    work, generator = ImageWork(), random.Random(3)
    before = generator.getstate()
    work.hand_size = 2
    assert work.in_hands([3, 1, 2, 0], generator) == [3, 1, 2, 0]
    work.learn({3: 0})
    assert work.state() == {}
    work.learn({3: 5})
    work.hand_size = 1
    assert work.in_hands([3, 1, 2, 0], generator) == [3, 1, 2, 0]
    assert generator.getstate() == before


def test_known_work_is_stored_and_read_back() -> None:
    work, again = ImageWork(), ImageWork()
    work.learn({3: 5, 1: 8})
    work.newest = [{}, {2: 9}]
    again.load_state(work.state())
    assert again.state() == work.state() == {"train_work": [[3, 5], [1, 8]], "last_train_work": [[], [[2, 9]]]}
    again.load_state({"newest_train_work": [[2, 9]]})  # of an earlier version
    assert again.newest == work.newest
    for broken in (
        {"train_work": 3},
        {"train_work": [[1]]},
        {"newest_train_work": [[1, "a"]]},
        {"last_train_work": [[], [[1, "a"]]]},
        {"last_train_work": [[]]},
        {"last_train_work": 3},
        {"train_work": [[1, -1]]},
    ):
        with pytest.raises(ValueError, match="pairs of numbers"):
            again.load_state(broken)


@given(stop=st.integers(0, 9), more=st.integers(0, 3), agrees=st.booleans())
def test_a_run_that_goes_on_learns_work_when_the_run_before_did(stop: int, more: int, agrees: bool) -> None:
    """Also if it is saved and goes on again after a few steps, and if the ranks have just agreed to stop."""

    def works(hands: list[list[int]], step: int, first: int) -> list[int]:
        return [1 + (31 * image + 17 * step) % 97 for image in hands[step]] if step >= first else [0, 0]

    def train(data: Images, hands: list[list[int]], steps: int) -> DealtImages:
        dealer, first = DealtImages(data, Ranks(0, 2)), len(hands)
        for step in range(first, first + steps):
            dealer.learn(works(hands, step - 2, first))
            hands.append(dealer.next_hand())
        return dealer

    whole, data = Images(30), Images(30)
    hands, resumed = list[list[int]](), list[list[int]]()
    train(whole, hands, stop + more + 40)
    for steps in (stop, more, 40):
        first = len(resumed)
        dealer, end = train(data, resumed, steps), first + steps
        if agrees and steps < 40:
            dealer.learn(works(resumed, end - 2, first))
        dealer.keep_newest(works(resumed, end - 2, first), works(resumed, end - 1, first))
        before, data = data, Images(30)
        data.train_unseen_cameras = before.train_unseen_cameras
        data.random_generator.setstate(before.random_generator.getstate())
        data.work.load_state(before.work.state())
    assert resumed == hands
    assert data.work.state()["train_work"] == whole.work.state()["train_work"]


@given(k=st.integers(1, 8), every=st.integers(1, 30), steps=st.integers(1, 60))
def test_what_is_due_happens_once_for_each_multiple_that_is_passed(k: int, every: int, steps: int) -> None:
    due = [step for step in range(k, k * steps + 1, k) if is_due(step, every, k)]
    assert due == sorted({-(-multiple // k) * k for multiple in range(every, k * steps + 1, every)})


def test_chosen_steps_are_reached_by_the_first_step_that_is_not_before_them() -> None:
    assert [step for step in range(3, 31, 3) if reaches_one_of(step, {7, 9, 30}, 3)] == [9, 30]


@given(start=st.integers(0, 20), length=st.integers(0, 40), size=st.integers(1, 6))
def test_the_last_step_is_the_first_that_reaches_the_wanted_number(start: int, length: int, size: int) -> None:
    together = Together(Ranks(0, size), count_images=True)
    last = together.last_step(start, length)
    steps = list(range(start + size, start + 100, size))
    assert last == (start if length <= start else next(step for step in steps if step >= length))


def optimizers(images: int) -> Any:
    config = {"optimizer": FusedAdamConfig(lr=0.01), "scheduler": ExponentialDecayConfig(lr_final=1e-4, max_steps=100)}
    return make_optimizers({"x": config}, {"x": [torch.nn.Parameter(torch.ones(3))]}, images)


def test_rates_grow_with_the_root_and_an_image_counts_as_before() -> None:
    one, four = optimizers(1), optimizers(4)
    group = four.optimizers["x"].param_groups[0]
    assert group["lr"] == pytest.approx(0.02)
    assert group["betas"] == (0.9**4, 0.999**4)
    assert group["eps"] == pytest.approx(5e-16)
    for _ in range(40):
        one.schedulers["x"].step()
        four.schedulers["x"].step()
    ours, theirs = (each.optimizers["x"].param_groups[0]["lr"] for each in (four, one))
    assert ours == pytest.approx(2 * theirs)


def test_decay_rates_that_an_optimizer_sets_in_its_groups_are_kept() -> None:
    class OwnConfig(FusedAdamConfig):
        def setup(self, params: Any) -> torch.optim.Optimizer:
            made = super().setup(params)
            made.param_groups[0].update(betas=(0.5, 0.9), eps=1e-8)
            return made

    for images in (1, 2):
        config = {"optimizer": OwnConfig(lr=0.01, beta2=0.99), "scheduler": None}
        made = make_optimizers({"x": config}, {"x": [torch.nn.Parameter(torch.ones(3))]}, images)
        group = made.optimizers["x"].param_groups[0]
        assert group["betas"] == (0.5**images, 0.9**images)
        assert group["eps"] == pytest.approx(1e-8 / math.sqrt(images))
        checkpoint = {"optimizers": {"x": made.optimizers["x"].state_dict()}}
        stored = of_one_image(checkpoint, made.optimizers, images)["optimizers"]["x"]["param_groups"][0]
        assert (stored["betas"], stored["eps"]) == ((0.5, 0.9), 1e-8)


def test_decay_rates_that_a_resumed_run_changes_are_told_as_those_of_one_image(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, saved = optimizers(3), optimizers(1).optimizers["x"].state_dict()
    run: Any = SimpleNamespace(
        optimizers=made,
        configured_moments={"x": moments_of(made.optimizers["x"].param_groups[0])},
    )
    saved["param_groups"][0]["betas"] = (0.9, 0.99)
    made.optimizers["x"].load_state_dict(of_images({"optimizers": {"x": saved}}, made.optimizers, 3)["optimizers"]["x"])
    with caplog.at_level("INFO", "splatkit_ns"):
        use_changed_moments(run, {"x": saved})
    assert made.optimizers["x"].param_groups[0]["betas"] == (0.9**3, 0.999**3)
    assert caplog.messages == ["Adam's betas of x are now (0.9, 0.999); the checkpoint's run had (0.9, 0.99)."]


def test_checkpoints_hold_the_state_of_one_process_and_the_way_back_is_exact() -> None:
    made = optimizers(3)
    optimizer, schedule = made.optimizers["x"], made.schedulers["x"]
    param = optimizer.param_groups[0]["params"][0]
    for _ in range(7):
        param.grad = torch.ones(3)
        optimizer.step()
        schedule.step()
    before = optimizer.state_dict()
    checkpoint = {
        "optimizers": {"x": before},
        "schedulers": {"x": schedule.state_dict()},
        "splatkit": {"learning_rates": {"x": 0.01 * math.sqrt(3)}, "rng": 5},
    }
    stored = of_one_image(checkpoint, made.optimizers, 3)
    group = stored["optimizers"]["x"]["param_groups"][0]
    assert group["betas"] == (0.9, 0.999)
    assert group["initial_lr"] == pytest.approx(0.01)
    assert float(stored["optimizers"]["x"]["state"][0]["step"]) == 21
    assert stored["schedulers"]["x"]["base_lrs"] == pytest.approx([0.01])
    assert stored["splatkit"] == {"learning_rates": {"x": pytest.approx(0.01)}, "rng": 5}
    other = optimizers(3)
    again = of_images(stored, other.optimizers, 3)
    assert again["splatkit"]["learning_rates"] == pytest.approx(checkpoint["splatkit"]["learning_rates"])
    other.optimizers["x"].load_state_dict(again["optimizers"]["x"])
    other.schedulers["x"].load_state_dict(again["schedulers"]["x"])
    snap_rates(other.optimizers, other.schedulers, {"x": 0.01 * math.sqrt(3)})
    found = other.optimizers["x"].state_dict()
    assert found["param_groups"][0]["betas"] == before["param_groups"][0]["betas"]
    assert found["param_groups"][0]["initial_lr"] == 0.01 * math.sqrt(3)
    assert other.schedulers["x"].base_lrs == schedule.base_lrs
    assert torch.equal(found["state"][0]["step"], before["state"][0]["step"])
