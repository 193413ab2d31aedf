"""Tables of numbers -> samples, and every mistake in one line that names its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.number_table import column_count, number_table, numbers
from anomaly_lab.data.samples import fingerprint

NUMBERS = st.floats(-1e14, 1e14).map(repr)
ROWS = st.lists(st.tuples(st.sampled_from(("0", "good", "1", "hole")), NUMBERS, NUMBERS), min_size=1)


def table(folder, text):
    (path := folder / "parts.csv").write_text(text)
    return str(path)


def read(path, label="label", leave_out=(), share=0.8, seed=0):
    return number_table(path, label, leave_out, share, seed)


@given(rows=ROWS, mark=st.sampled_from(",;\t|"))
def test_a_table_comes_back_as_it_was_written(tmp_path_factory, rows, mark):
    lines = [mark.join(("a", "label", "b", "note")), *(mark.join((a, label, b, "x")) for label, a, b in rows)]
    path = table(tmp_path_factory.mktemp("table"), "\n".join(lines))
    found = numbers(path, "label", ("note",))
    assert found.columns == ("a", "b")
    assert found.values.tolist() == [float(value) for _, *pair in rows for value in pair]
    assert found.kinds == [{"0": "good", "1": "bad"}.get(label, label) for label, *_ in rows]
    assert found.lines == list(range(2, len(rows) + 2))
    assert column_count(path, "label", ["note"]) == 2


def test_a_share_of_the_good_rows_is_learnt_from_and_the_rest_is_tested(tmp_path):
    rows = [f"{number},{'good' if number % 3 else 'worn'}" for number in range(30)]
    path = table(tmp_path, "\n".join(["wear,label", *rows]))
    splits = read(path)
    assert len(splits.train) == 16
    assert {sample.defect for sample in splits.train} == {"good"}
    assert sorted(sample.line for sample in (*splits.train, *splits.test)) == list(range(2, 32))
    assert sum(sample.label for sample in splits.test) == 10
    assert splits.test[0].place == f"{path}:2"
    assert read(path, seed=1).train != splits.train
    assert read(path) == splits
    assert fingerprint(splits.train) != fingerprint(read(path, seed=1).train)


def test_a_column_may_say_what_is_learnt_from(tmp_path):
    splits = read(table(tmp_path, "a,split,label\n1,train,ok\n2,TEST,ok\n3,test,1\n4,train,ok\n"))
    assert [sample.line for sample in splits.train] == [2, 5]
    assert [(sample.line, sample.defect) for sample in splits.test] == [(3, "good"), (4, "bad")]


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("a,b,label\n1,2,0\n3,two,0\n", {}, r"line 3, column b: expected a number, found 'two'; .*leave_out=\[b\]"),
        ("a,b,label\n1,,0\n", {}, "line 2, column b: expected a number, found nothing; fill it"),
        ("a,b,label\n1, ,0\n", {}, "line 2, column b: expected a number, found nothing"),
        ("a,b,label\nnan,2,0\n", {}, "line 2, column a: expected a number .*found nan"),
        ("a,b,label\n1,-inf,0\n", {}, "line 2, column b: expected a number .*found -inf"),
        ("a,b,label\n1,2e20,0\n", {}, "line 2, column b: expected a number .*found 2e.20"),
        ("a;label\n1,5;0\n", {}, "line 2, column a: expected a number, found '1,5'"),
        ("a,label\n1,2\n", {}, "line 2, column label: expected a label 0, 1, good"),
        ("a,label\n1,False\n2,True\n", {}, "line 2, column label: .* found 'False', which may mean either; write 0"),
        ("a,label\n1,\n", {}, "line 2, column label: expected a label .*found none"),
        ("a,label\n1,in/out\n", {}, "line 2: expected a defect name without /"),
        ("a,label\n1,0\n2\n", {}, "line 3: expected 2 columns, found 1"),
        ("a,label\n1,0,5\n", {}, "line 2: expected 2 columns, found 3"),
        ("a,lable\n1,0\n", {}, "expected one of the columns a, lable of .*found 'label'; did you mean 'lable'"),
        ("a;b;verdict\n1;2;0\n", {}, "expected one of the columns a, b, verdict of .*found 'label'"),
        ("", {}, "data.label: expected one of the columns none, because the file is empty, of"),
        ("a,b,label\n1,1_0,0\n", {}, "line 2, column b: expected a number, found '1_0'"),
        ("a,,label\n1,x,0\n", {}, "expected the name of every column, found none for column 2, in which stands 'x'"),
        ("a,split,Split,label\n1,train,test,0\n", {}, "expected one column that says train or test, found split"),
        ("a,a,label\n1,2,0\n", {}, "expected every column once, found 'a' twice"),
        ("label\n0\n", {}, "expected columns of numbers beside 'label', found none"),
        ("a,label\n", {}, "expected rows of numbers below the names of the columns, found none"),
        ("a,label\n1,1\n2,gut\n3,gut\n", {}, "found none of 3; read as defects: gut 2, bad 1; good rows are"),
        ("a,label\n1,0\n2,0\n", {"share": 0.1}, "found none of 2; the good ones are all of the test: .*train_share"),
        ("a,label\n1,0\n", {"leave_out": ["b"]}, "data.leave_out: expected names of columns of .*found 'b'"),
        ("a,split,label\n1,later,0\n", {}, r"line 2: expected split train or test, found 'later'; .*=\[split\]"),
        ("a,split,label\n1,train,1\n", {}, "2: expected good rows in the split train, found bad"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_line_and_column(text, words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(table(tmp_path, text), **words)


@pytest.mark.parametrize("text", [",a,label\n0,5,0\n1,7,0\n", "a,label,\n5,0,\n7,0,\n", "a,,label\n5,1,0\n7,0,0\n"])
def test_a_column_without_a_name_that_says_nothing_is_left_out(text, tmp_path):
    found = numbers(table(tmp_path, text), "label", ())
    assert (found.columns, found.values.tolist()) == (("a",), [5, 7])


def test_a_column_that_counts_the_rows_is_named(tmp_path):
    """Where good rows stand first, it tells the others without any measurement."""
    path = table(tmp_path, "id,a,label\n" + "".join(f"{number},{number % 3},0\n" for number in range(5, 15)))
    assert read(path).remarks == (
        "column id counts the rows; unless it was measured, leave it out: 'data.leave_out=[id]'",
    )
    assert read(path, leave_out=["id"]).remarks == ()


def test_a_column_called_split_may_be_left_out(tmp_path):
    path = table(tmp_path, "a,split,label\n" + "".join(f"{number},{number / 7},0\n" for number in range(0, 20, 2)))
    assert len(read(path, leave_out=["split"]).train) == 8
    assert numbers(path, "label", ("split",)).columns == ("a",)


def test_a_missing_file_and_other_bytes_are_named(tmp_path):
    with pytest.raises(UserError, match="data.root: expected a CSV file .*found none at"):
        read(str(tmp_path / "none.csv"))
    (tmp_path / "old.csv").write_bytes("größe,label\n1,0\n".encode("latin-1"))
    with pytest.raises(UserError, match="expected a table in UTF-8"):
        read(str(tmp_path / "old.csv"))


def test_a_table_that_changes_is_read_again(tmp_path):
    path = table(tmp_path, "a,label\n1,0\n")
    assert numbers(path, "label", ()).values.tolist() == [1]
    table(tmp_path, "a,label\n25,0\n")
    assert numbers(path, "label", ()).values.tolist() == [25]


def test_a_test_without_good_rows_is_named(tmp_path):
    splits = read(table(tmp_path, "a,split,label\n1,train,ok\n2,train,no defect\n3,test,1\n4,test,accepted\n"))
    assert splits.remarks == ("no good test rows: every row of the test counts as defective",)
