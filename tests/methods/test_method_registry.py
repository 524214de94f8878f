from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from grids.schemes import parse_scheme
from methods import registry
from methods.blocks import block_linears, replace_module
from methods.contract import LinearReport, Method, MethodParameters
from methods.linear import QuantLinear
from methods.quantized_weight import quantize_weight
from methods.quantizer import Quantizer
from methods.registry import MethodPluginError, available_methods


class PluginParameters(MethodParameters):
    strength: float = 1.0


class Plugin(Method[PluginParameters]):
    name = "plugin"
    version = 3
    Parameters = PluginParameters
    needs_calibration = False

    def refusal(self, scheme):
        return None if scheme.weight_bits < 16 else "weights only"

    def quantize_blocks(self, job):
        quantizer = Quantizer(num_bits=job.scheme.weight_bits, granularity="channel", half_scale=True)
        for name, linear in block_linears(job.model).items():
            quantized = QuantLinear.from_linear(linear, quantize_weight(linear.weight, quantizer, name))
            replace_module(job.model, name, quantized)
            job.report(LinearReport(name=name, effective_bits=quantized.effective_bits, weight_error=0.0))


class Unfinished(Method[PluginParameters]):
    name = "plugin"
    version = 1
    Parameters = PluginParameters
    needs_calibration = False

    def refusal(self, scheme):
        return None


class Nameless(Plugin):
    version = "1"


@pytest.fixture
def install(monkeypatch):
    """Makes objects available as entry points, as an installed package would."""

    def install_plugins(**plugins):
        module = types.ModuleType("some_package")
        for key, value in plugins.items():
            setattr(module, f"the_{key}", value)
        monkeypatch.setitem(sys.modules, "some_package", module)
        points = [EntryPoint(key, f"some_package:the_{key}", registry.ENTRY_POINT_GROUP) for key in plugins]
        monkeypatch.setattr(registry, "entry_points", lambda *, group: points)
        return points

    return install_plugins


def test_built_in_methods_are_there_under_their_names():
    methods = available_methods()
    assert {"rtn", "gptq"} <= set(methods)
    for name, method in methods.items():
        assert method.name == name
        assert method.Parameters().model_dump() == method.Parameters().model_dump(mode="json")


def test_a_method_of_another_package_is_found_and_works(install, build_model):
    install(plugin=Plugin)
    method = available_methods()["plugin"](PluginParameters(strength=2))
    report = method.quantize(build_model(), parse_scheme("w4a16"), None, seed=0)
    assert (report.method, report.method_version, len(report.linears)) == ("plugin", 3, 14)


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ({"plugin": 3}, r"'plugin' \(some_package:the_plugin\) is not a subclass of methods\.Method"),
        ({"plugin": Unfinished}, "does not define quantize_blocks"),
        ({"plugin": Nameless}, "the class variable version is missing or no int"),
        ({"other": Plugin}, "the class calls itself 'plugin'"),
        ({"rtn": type("Other", (Plugin,), {"name": "rtn"})}, "the name 'rtn' is taken"),
    ],
)
def test_an_entry_point_that_is_no_method_gets_a_clear_error(install, plugins, message):
    install(**plugins)
    with pytest.raises(MethodPluginError, match=message):
        available_methods()


def test_an_entry_point_that_does_not_load_is_named_with_the_reason(monkeypatch):
    point = EntryPoint("broken", "no_such_package.methods:Broken", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])
    with pytest.raises(
        MethodPluginError, match=r"'broken' \(no_such_package\.methods:Broken\) does not load: ModuleNot"
    ):
        available_methods()
