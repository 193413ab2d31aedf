"""The table of the metrics has every measure once."""

from anomaly_lab.cli.metrics import main
from anomaly_lab.runs.measures import MEASURES


def test_every_measure_has_a_line(capsys):
    main([])
    keys = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert sorted(keys) == sorted(measure.key for measure in MEASURES)
