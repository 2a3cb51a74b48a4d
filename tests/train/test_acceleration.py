from __future__ import annotations

import pytest
import torch
from torch import nn

import miniature
from fairbench.cost import CostMeter
from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.method.record import ClassRecord
from fairbench.train.acceleration import Accelerator, compiled, fastest_mode
from fairbench.train.step import accelerate, attack, train_step

SIZE = 6


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def batch(number: int, size: int = SIZE) -> Batch:
    torch.manual_seed(number)
    return Batch(torch.rand(size, 1, 8, 8), torch.arange(size) % 3, torch.arange(size) + 10 * number)


class Tape:
    """Stands in for a CUDA graph: a replay runs the attack again on the recorded tensors, without the cost meter."""

    def __init__(self, cost: CostMeter) -> None:
        self.cost, self.recorded, self.replayed = cost, 0, 0

    def __call__(self, run):
        self.recorded += 1
        run()
        output = run()

        def replay() -> None:
            self.replayed += 1
            counts = self.cost.forwards, self.cost.backwards
            again = run()
            self.cost.forwards, self.cost.backwards = counts
            output.x_adv.copy_(again.x_adv)
            output.survived.copy_(again.survived)

        return output, replay


def set_up(name: str = "sat", mode="graph", **how):
    method, cost = miniature.set_up(name, network(), **how.pop("method", {})), CostMeter()
    tape = how.pop("record", None) or Tape(cost)
    return method, cost, tape, accelerate(method, cost, size=SIZE, mode=mode, record=tape, **how)


@pytest.mark.parametrize("name", ["sat", "fair_ard"])  # an attack in eval mode, and one that BatchNorm takes part in
def test_a_recorded_attack_is_the_attack_and_costs_the_same(name):
    teacher = {"method": {"teacher": network().eval().requires_grad_(False)}}
    method, cost, tape, accelerator = set_up(name, **teacher)
    plain, plainly = miniature.set_up(name, network(), **teacher["method"]), CostMeter()
    for number in range(3):
        with cost.measure(method.context.model):
            ours = accelerator.attack(batch(number))
        with plainly.measure(plain.context.model):
            theirs = attack(plain, batch(number))
        assert torch.equal(ours.x_adv, theirs.x_adv)
        assert torch.equal(ours.survived, theirs.survived)
        assert (cost.forwards, cost.backwards) == (plainly.forwards, plainly.backwards)
    assert (tape.recorded, tape.replayed) == (1, 4)  # the first replay is compared with the attack as written


def test_a_shorter_batch_runs_as_written():
    method, _, tape, accelerator = set_up()
    assert torch.equal(accelerator.attack(batch(0, 4)).x_adv, attack(method, batch(0, 4)).x_adv)
    assert tape.recorded == 0


def test_an_epoch_is_recorded_anew_because_its_noise_is_its_own():
    method, _, tape, accelerator = set_up()
    first = accelerator.attack(batch(0)).x_adv.clone()
    method.context.epoch = 1
    second = accelerator.attack(batch(0)).x_adv
    assert tape.recorded == 2
    assert not torch.equal(first, second)
    assert torch.equal(second, attack(method, batch(0)).x_adv)


def test_a_state_that_is_replaced_within_an_epoch_ends_the_recording_with_one_warning():
    method, _, _, accelerator = set_up()
    accelerator.attack(batch(0))
    method.tensor = torch.zeros(1)
    with pytest.warns(RuntimeWarning, match="goes on without graph: .*replaced within an epoch") as caught:
        again = accelerator.attack(batch(1))
    assert len(caught) == 1
    assert accelerator.mode == "eager"
    assert torch.equal(again.x_adv, attack(method, batch(1)).x_adv)


def test_a_recording_that_gives_something_else_is_not_used():
    def wrong(run):
        output = run()
        return output, lambda: output.x_adv.zero_()

    method, _, _, accelerator = set_up(record=wrong)
    with pytest.warns(RuntimeWarning, match="of the pixels are those of the attack as written"):
        found = accelerator.attack(batch(0))
    assert torch.equal(found.x_adv, attack(method, batch(0)).x_adv)


def test_an_attack_that_fails_as_written_fails():
    accelerator = Accelerator(
        lambda *_: 1 / 0, miniature.set_up("sat", network()), CostMeter(), size=SIZE, mode="graph"
    )
    with pytest.warns(RuntimeWarning, match="without graph"), pytest.raises(ZeroDivisionError):
        accelerator.attack(batch(0))


def test_training_with_a_recorded_attack_gives_the_same_weights():
    weights = []
    for mode in ("eager", "graph"):
        method, _, _, accelerator = set_up(mode=mode)
        record = ClassRecord(3, torch.device("cpu"))
        for number in range(3):
            train_step(method, batch(number), record, accelerator)
        weights.append(torch.cat([p.detach().flatten() for p in method.context.model.state_dict().values()]))
    assert torch.equal(*weights)


def test_another_forward_function_is_put_in_place_for_a_block_alone():
    model = network()
    with compiled(model, lambda x: x + 1):
        assert model(1) == 2
    assert "forward" not in vars(model)
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_compiled_passes_agree_and_are_counted_and_a_failed_compilation_is_one_warning():
    """Dynamo traces the model and runs it uncompiled, because code generation takes a minute."""
    method, cost, _, accelerator = set_up(mode="compiled-graph", backend="eager")
    record = ClassRecord(3, torch.device("cpu"))
    wanted = attack(method, batch(0)).x_adv
    with cost.measure(method.context.model):
        assert torch.allclose(accelerator.attack(batch(0)).x_adv, wanted, atol=1e-6)
        train_step(method, batch(1), record, accelerator)
    assert accelerator.mode == "compiled-graph"
    assert cost.forwards == SIZE * 5
    broken, _, _, accelerator = set_up(mode="compiled-graph", backend="no-such-backend")
    with pytest.warns(RuntimeWarning, match="goes on without compiled-graph") as caught:
        accelerator.attack(batch(0))
    train_step(broken, batch(1), record, accelerator)  # a second warning would be an error
    assert len(caught) == 1
    assert accelerator.mode == "graph"


def test_where_neither_compilation_nor_recording_works_training_goes_on_as_written():
    def fails(run):
        raise RuntimeError("no graph here")

    method, _, _, accelerator = set_up(mode="compiled-graph", backend="no-such-backend", record=fails)
    before = [buffer.clone() for buffer in method.context.model.buffers()]
    with pytest.warns(RuntimeWarning, match="goes on without") as caught:
        found = accelerator.attack(batch(0)).x_adv
    assert [str(warning.message).split(":")[0] for warning in caught] == [
        "training goes on without compiled-graph",
        "training goes on without graph",
    ]
    assert accelerator.mode == "eager"
    assert torch.equal(found, attack(method, batch(0)).x_adv)
    assert all(map(torch.equal, before, method.context.model.buffers()))


@pytest.mark.parametrize("name", ["sat", "fair_ard"])  # an attack in eval mode, and one that BatchNorm takes part in
def test_an_attack_on_a_copy_is_the_attack_and_costs_the_same(name):
    teacher = {"method": {"teacher": network().eval().requires_grad_(False)}}
    method, cost, _, accelerator = set_up(name, mode="copy", **teacher)
    plain, plainly = miniature.set_up(name, network(), **teacher["method"]), CostMeter()
    for number, size in ((0, SIZE), (1, SIZE), (2, 4)):
        with cost.measure(method.context.model):
            ours = accelerator.attack(batch(number, size))
        with plainly.measure(plain.context.model):
            theirs = attack(plain, batch(number, size))
        assert torch.allclose(ours.x_adv, theirs.x_adv, atol=1e-6)
        assert torch.equal(ours.survived, theirs.survived)
        assert (cost.forwards, cost.backwards) == (plainly.forwards, plainly.backwards)
        assert cost.backwards > 0
        for each in (method, plain):
            with torch.no_grad():
                for parameter in each.context.model.parameters():
                    parameter.mul_(0.9)
    assert accelerator.mode == ("copy" if name == "sat" else "eager")


def test_training_on_copies_gives_nearly_the_same_weights():
    weights = []
    for mode in ("eager", "copy"):
        method, _, _, accelerator = set_up(mode=mode)
        record = ClassRecord(3, torch.device("cpu"))
        for number in range(3):
            train_step(method, batch(number), record, accelerator)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in method.context.model.parameters()]))
    assert torch.allclose(*weights, atol=1e-5)
    assert not torch.equal(weights[0], torch.cat([p.detach().flatten() for p in network().parameters()]))


def test_a_network_that_cannot_be_copied_is_attacked_itself():
    class Asks(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    torch.manual_seed(0)
    methods = [miniature.set_up("sat", Asks(nn.Flatten(), nn.Linear(64, 3))) for _ in range(2)]
    methods[1].context.model.load_state_dict(methods[0].context.model.state_dict())
    accelerator = accelerate(methods[0], CostMeter(), size=SIZE, mode="copy")
    assert torch.equal(accelerator.attack(batch(0)).x_adv, attack(methods[1], batch(0)).x_adv)
    assert accelerator.mode == "eager"


@pytest.mark.filterwarnings("error")
def test_what_a_method_refuses_is_raised_without_a_warning():
    method = miniature.set_up("sat", network())
    method.context.threat = method.context.threat.model_copy(update={"norm": "L2"})
    accelerator = accelerate(method, CostMeter(), size=SIZE, mode="copy")
    with pytest.raises(InvalidInput, match="Linf ball"):
        accelerator.attack(batch(0))


def test_which_way_is_taken_where():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    small, large = torch.nn.Linear(9, 9), torch.nn.Linear(1000, 1000)
    modes = [fastest_mode(small, cpu, precision) for precision in ("float32", "bf16", "float64")]
    assert modes == ["copy", "eager", "eager"]
    assert [fastest_mode(large, cuda, precision) for precision in ("float32", "bf16")] == 2 * ["compiled-step-graph"]
    assert [fastest_mode(small, cuda, precision) for precision in ("float32", "bf16")] == 2 * ["step-graph"]
