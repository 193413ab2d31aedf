"""The resolvers of a configuration."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from anomaly_lab.config.resolvers import resolve

CONFIG = {
    "a": "${want:a,1}", "b": "${want:b,${c}}", "c": 5, "passes": "${fact:passes,${c}}", "sees": "${fact:sees,x}",
    "kind": "${tiled_as:texture}", "category": "${category:photos/parts.csv}",
    "given": "${given:${c}}", "missing": "${given:${nothing}}", "nothing": None,
    "method": {"wants": {"a": 2, "d": "${c}"}, "_target_": "anomaly_lab.methods.cae.CAE"}, "d": "${want:d,1}",
}  # fmt: skip


def resolved(**changes):
    return resolve(OmegaConf.create({**CONFIG, **changes}))


def test_a_wish_comes_before_the_default_and_may_be_a_reference():
    found = resolved()
    assert (found["a"], found["b"], found["d"]) == (2, 5, 5)


def test_facts_are_those_of_the_class_and_its_base_classes():
    found = resolved()
    assert (found["passes"], found["sees"], found["kind"]) == (5, "patches", "texture")
    found = resolved(method={"_target_": "anomaly_lab.methods.control.Control"})
    assert (found["passes"], found["sees"], found["kind"]) == (1, "images", "object")
    with pytest.raises(InterpolationResolutionError, match="expected a class of anomaly_lab.methods.cae, found 'CEA'"):
        resolved(method={"_target_": "anomaly_lab.methods.cae.CEA"})


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ({"_target_": "anomaly_lab.methods.cae.CAE"}, None),
        ({"_target_": "anomaly_lab.methods.supervised.Supervised"}, 0.0),
        ({"_target_": "anomaly_lab.methods.cavga.CAVGA", "map": "attention"}, 0.5),
        ({"_target_": "anomaly_lab.methods.cavga.CAVGA"}, 0.5),
        ({"_target_": "anomaly_lab.methods.cavga.CAVGA", "map": "residual"}, None),
    ],
)
def test_the_line_of_a_method_is_that_of_the_maps_that_it_makes(method, line):
    assert resolved(method=method, line="${own_line:}")["line"] == line


def test_whether_a_value_is_given():
    assert resolved()["given"] is True
    assert resolved()["missing"] is False
    assert resolved(nothing=0)["missing"] is True


def test_the_category_of_a_path():
    assert resolved()["category"] == "photos-parts"
