"""Rows of a table as a run gets them."""

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.table_module import RowBatches, TableModule
from tests.adversarial import configured

ROWS = [f"{number},{number * 1000 + 0.5},{'worn' if number > 24 else 'good'}" for number in range(30)]


@pytest.fixture
def module(tmp_path):
    def made(*words, rows=ROWS):
        (path := tmp_path / "wear.csv").write_text("\n".join(["a,b,label", *rows]))
        method = [] if any("method=" in word for word in words) else ["method=table_autoencoder"]
        resolved = configured("data=table", f"data.root={path}", *method, *words)
        return instantiate(resolved["data"]["datamodule"], _convert_="all")

    return made


def test_every_row_is_learnt_from_held_out_or_tested_with_its_numbers(module):
    data = module()
    assert isinstance(data, TableModule)
    data.setup("fit")
    assert (len(data.train_samples), len(data.held_out_samples), len(data.test_samples)) == (18, 2, 10)
    seen = {}
    for loader, samples in (
        (data.val_dataloader(), data.held_out_samples),
        (data.test_dataloader(), data.test_samples),
    ):
        for batch in loader:
            assert batch.image.shape[1:] == (2, 1, 1)
            assert batch.image.dtype == torch.float32
            for index, label, image in zip(batch.index.tolist(), batch.label.tolist(), batch.image, strict=True):
                assert label == samples[index].label
                seen[samples[index].line] = image.flatten().tolist()
    for batch in data.whole_training_images():
        for index, image in zip(batch.index.tolist(), batch.image, strict=True):
            seen[data.train_samples[index].line] = image.flatten().tolist()
    mean = sum(sample.line - 2 for sample in data.train_samples) / 18
    for line in range(2, 32):
        assert seen[line] == pytest.approx([line - 2 - mean, (line - 2 - mean) * 1000], abs=1e-3)


def test_an_epoch_shows_every_row_once_as_it_is(module):
    data = module("data.batch_size=5")
    data.setup("fit")
    for epoch in (0, 1):
        shown = torch.cat([data.rendered(rows, torch.device("cpu")).image for rows in data.feed.loader(epoch)])
        expected = torch.cat([batch.image for batch in data.whole_training_images()])
        assert torch.equal(shown[shown[:, 0, 0, 0].argsort()], expected[expected[:, 0, 0, 0].argsort()])
        assert not torch.equal(shown, expected)


def test_processes_take_turns_batch_by_batch(module):
    data = module()
    data.setup("fit")
    alone, first, second = (
        [batch.index.tolist() for batch in RowBatches(data.test_samples, torch.zeros(10, 2, 1, 1), 3, *place)]
        for place in ((0, 1), (0, 2), (1, 2))
    )
    assert alone == [first[0], second[0], first[1], second[1]]
    assert len(data.test_dataloader()) == 1


@pytest.mark.parametrize("column", ["a", "b"])
def test_a_column_with_one_value_is_named(module, column):
    rows = [f"7,{number},good" if column == "a" else f"{number},7,good" for number in range(9)] + ["1,2,worn"]
    with pytest.raises(UserError, match=rf"wear.csv, column {column}: .*found 7 in all; .*leave_out=\[{column}\]"):
        module(rows=rows).setup("fit")
    module(f"data.leave_out=[{column}]", rows=rows).setup("fit")


def test_a_column_that_only_tested_rows_change_is_constant_too(module):
    rows = [f"{number},1,good" for number in range(9)] + ["1,2,worn"]
    with pytest.raises(UserError, match="column b: expected different values in the 6 rows that are learnt from"):
        module(rows=rows).setup("fit")


def test_a_single_row_teaches_no_scale(module):
    rows = ["1,5,good", "2,6,good", "3,7,good", "4,8,worn"]
    with pytest.raises(UserError, match="wear.csv: expected at least 2 good rows to learn from, .*found 1; give"):
        module(rows=rows).setup("fit")
    with pytest.raises(InstantiationException, match="different good rows, .*found 1 at .*wear.csv; .*=FILE"):
        module(rows=rows[2:])


def test_a_number_far_from_all_others_is_named_before_the_training(module):
    """Its distance in standard deviations, squared, would be infinite in float32."""
    rows = [f"{number % 3}e-9,{number},good" for number in range(20)]
    module(rows=[*rows, "1e5,3,worn"]).setup("fit")
    with pytest.raises(
        UserError, match=r"wear.csv, line 22, column a: expected a number within 1e\+15 standard .*9e\+14"
    ):
        module(rows=[*rows, "9e14,3,worn"]).setup("fit")


def test_numbers_too_small_for_float32_are_one_value(module):
    with pytest.raises(UserError, match="column b: expected different values"):
        module(rows=[f"{number},{number}e-50,good" for number in range(20)]).setup("fit")


def test_a_large_offset_costs_no_digits(module):
    """Seconds since 1970 have steps of 128 in float32."""
    rows = [f"{1_700_000_000 + number},{number},good" for number in range(20)]
    data = module(rows=rows)
    data.setup("fit")
    seconds, numbers = torch.cat([batch.image for batch in data.whole_training_images()])[:, :, 0, 0].T
    torch.testing.assert_close(seconds, numbers)
