"""Modules, programs and callables of every kind, held in evaluation mode, also by several threads."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from odd_models import ENSEMBLES, Wrapped, conv_net, labelled, verdicts_of
from torch import Tensor, nn

from fairbench import evaluate
from fairbench.copies.tracing import traced
from fairbench.errors import InvalidInput
from fairbench.evaluation.edge import as_module


def _loads(model: nn.Module) -> nn.Module:
    script: nn.Module = torch.jit.freeze(torch.jit.script(model.eval()))
    return script


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_modules_without_a_train_mode() -> None:
    x, _y = labelled()
    with torch.no_grad():
        shape = {"x": {0: torch.export.Dim("batch", min=1, max=4096)}}
    exported = torch.export.export(Wrapped().eval(), (x,), dynamic_shapes=shape).module()
    attacks = ["clean", "fgsm", ENSEMBLES[0]]
    expected = verdicts_of(conv_net(), attacks)
    for model in (exported, _loads(conv_net()), torch.jit.trace(conv_net().eval(), x), torch.jit.script(conv_net())):
        assert verdicts_of(model, attacks) == expected
    fixed = torch.export.export(Wrapped().eval(), (x[:3],)).module()
    with pytest.raises(InvalidInput, match="the model cannot take float32 images of 1x6x6"):
        verdicts_of(fixed, ["clean"])


def test_lazy_layers_are_named_until_they_have_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(InvalidInput, match="lazy layers without weights"):
        verdicts_of(model, ["clean"])
    model(labelled()[0])
    assert len(verdicts_of(model, ["fgsm"])["fgsm"]) == 10


class Library:
    """A wrapper of the kind that attack libraries have: callable, and no module."""

    def __init__(self) -> None:
        self._model = conv_net().train()
        self._model.append(nn.Dropout(0.9))

    def __call__(self, x: Tensor) -> Tensor:
        return self._model(x)


def test_callables_are_evaluated_with_the_modules_behind_them_in_eval_mode() -> None:
    expected, wrapper = verdicts_of(conv_net(), ["pgd-5:rel_step=0.5"]), Library()
    net = wrapper._model
    for model in (wrapper, lambda x: net(x), wrapper.__call__, functools.partial(net.forward), functools.partial(net)):
        assert verdicts_of(model, ["pgd-5:rel_step=0.5"]) == expected
        assert net.training
    for nothing in (42, nn.Linear, None):
        with pytest.raises(InvalidInput, match=r"a model is|is the class"):
            evaluate(nothing, labelled())  # type: ignore[arg-type]


class Ensemble:
    """A callable that averages networks kept in a container of any kind."""

    def __init__(self, networks: Any) -> None:
        self.networks = networks

    def __call__(self, x: Tensor) -> Tensor:
        return _mean(x, networks=self.networks)


class Hiding(nn.Module):
    """A module whose networks torch does not know, one of them within another."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = [_Kept(network) for network in networks]

    def forward(self, x: Tensor) -> Tensor:
        return _mean(x, networks=self.networks)


class _Kept(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.held = {"network": network}

    def forward(self, x: Tensor) -> Any:
        return self.held["network"](x)


def _mean(x: Tensor, networks: Any) -> Tensor:
    found = [network(x) for network in (networks.values() if isinstance(networks, dict) else networks)]
    return torch.stack(found).mean(0)


def _closure(networks: Any) -> Any:
    return lambda x: _mean(x, networks)


def _partial(networks: Any) -> Any:
    return functools.partial(_mean, networks=networks)


def _networks() -> list[nn.Module]:
    """Two networks in train mode, where batches and chance decide their logits."""
    networks: list[nn.Module] = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 5)))
    return networks


@pytest.mark.parametrize("kind", [Ensemble, _closure, _partial, Hiding], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("container", [list, tuple, lambda found: dict(zip("ab", found, strict=True))], ids="ltd")
def test_networks_in_a_plain_container_are_in_eval_mode(kind: Any, container: Any) -> None:
    expected = verdicts_of(Ensemble([network.eval() for network in _networks()]), ["clean", "pgd-5:rel_step=0.5"])
    networks = _networks()
    before = [network.state_dict()["0.running_mean"].clone() for network in networks]
    model = kind(networks if kind is Hiding else container(networks))
    assert verdicts_of(model, ["clean", "pgd-5:rel_step=0.5"]) == expected
    for network, mean in zip(networks, before, strict=True):
        assert network.training
        assert torch.equal(network.state_dict()["0.running_mean"], mean)
        assert network.state_dict()["0.num_batches_tracked"] == 0
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_a_module_with_lists_of_its_own_layers_is_not_wrapped() -> None:
    model = nn.Sequential(conv_net(), nn.Identity())
    model.layers = list(model)  # type: ignore[assignment]
    assert as_module(model) is model


def test_weights_made_in_inference_mode_are_refused_in_one_line_and_left_alone() -> None:
    with torch.inference_mode():
        model = conv_net()
    with pytest.raises(InvalidInput, match=r"made in torch.inference_mode\(\)"):
        evaluate(model, labelled(), attacks=["clean"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_that_refuses_eval_mode_has_its_parts_put_into_it() -> None:
    class Stubborn(Wrapped):
        def train(self, mode: bool = True) -> Any:
            raise RuntimeError("frozen")

    model = Stubborn()
    model.network.insert(2, nn.Dropout(0.9))
    assert verdicts_of(model, ["clean", "fgsm"]) == verdicts_of(conv_net(), ["clean", "fgsm"])
    assert model.network.training
    assert model.network[2].training


def test_threads_that_evaluate_one_model_find_the_verdicts_of_a_single_thread() -> None:
    model, attacks = conv_net().train(), ["clean", "fgsm", ENSEMBLES[0]]
    data = labelled()  # made once: it seeds torch's global generator, which all threads share
    expected, found, errors = verdicts_of(conv_net(), attacks, data=data), [], []

    def work() -> None:
        try:
            found.append(verdicts_of(model, attacks, data=data))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == [expected] * 4
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_is_used_while_another_thread_traces() -> None:
    other, x = conv_net(), labelled()[0]
    inside, done = threading.Event(), threading.Event()

    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            assert done.wait(30)
            return x

    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(traced(nn.Sequential(Waits(), conv_net()))))
    thread.start()
    assert inside.wait(30)
    try:
        with torch.no_grad():
            assert torch.equal(other(x), conv_net()(x))
    finally:
        done.set()
        thread.join()
    assert torch.equal(made[0](x), conv_net()(x))
