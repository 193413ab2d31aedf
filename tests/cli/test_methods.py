"""The table of the methods says what their classes say."""

import pytest
from hydra.utils import get_class

from anomaly_lab.cli.methods import about, exportable, main, row
from anomaly_lab.config.files import CONF
from anomaly_lab.methods.base.method import Method

FILES = sorted((CONF / "method").glob("*.yaml"))


def test_every_method_has_a_line(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(FILES) + 1]] == [path.stem for path in FILES]
    (dictionary,) = (line for line in lines if line.startswith("cnn_dictionary "))
    assert "one pass   images   pretrained  no      distance from a dictionary of ImageNet" in dictionary
    assert (
        "data.labelled_abnormal=N|FOLDER, defective photos to learn from: cavga, deep_svdd, fcdd alone."
        in "\n".join(lines)
    )
    main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m anomaly_lab methods")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_facts_are_those_of_the_class(path):
    method = get_class(about(path)[1])
    _, learns, shown, _, export, what = row(path)
    assert issubclass(method, Method)
    assert (learns == "epochs") == (method.passes is None)
    assert shown == method.sees
    assert (export == "yes") == (method.export_obstacle is Method.export_obstacle)
    assert what


def test_what_depends_on_the_settings_is_exported_by_some():
    assert exportable("anomaly_lab.methods.variation_model.VariationModel") == "some"
    assert exportable("anomaly_lab.methods.control.Control") == "no"
