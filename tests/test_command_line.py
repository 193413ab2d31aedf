"""The command line: help, errors without a traceback, fast answers."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import OverrideParseException
from hydra.types import RunMode

from anomaly_lab import __main__
from anomaly_lab.cli import predict, train
from anomaly_lab.cli.data_check import configuration
from anomaly_lab.cli.help import COMMANDS, groups, methods
from anomaly_lab.config.files import CONF, config_folder
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.messages import explain
from anomaly_lab.launch import cost
from anomaly_lab.networks.patch_network import PatchTeacher
from tests.conftest import METHODS, ROOT


def test_help_shows_usage_examples_and_groups(lab):
    text = lab("--help").stdout
    for part in (
        "method=ssim_ae data.category=screw",
        "predict run=DIR",
        f"method: {', '.join(METHODS)}",
        "data.patches",
        "data.labelled_abnormal=N|FOLDER",
        "  ssim_ae: the same autoencoder, on gray images, with an SSIM loss, Bergmann et al. 2018\n"
        "    sets input.channels=1\n",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-m", "method=cea"],
            f"error: method: expected one of {', '.join(METHODS)}, found 'cea'; did you mean 'cae'?",
        ),
        (
            ["pedict"],
            f"error: expected a command ({', '.join(COMMANDS)}) or key=value",
        ),
        (
            ["data=demo", "method=ganomaly", "budget.learning_rate=1e-3"],
            "error: budget.learning_rate: expected none, because method=ganomaly does not read it, found 1e-3",
        ),
        (
            ["predict", "run=last", "--config-dir", "."],
            "error: predict: expected no --config-dir, because a run folder holds its whole configuration; leave it",
        ),
        (
            ["export", "run=nowhere", "format=onnx"],
            "error: run: expected the folder of a finished run, the name of one",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(lab, tmp_path, arguments, message):
    done = lab(*arguments, code=1)
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said", "line"),
    [
        (["compare", "runs/"], "", "interrupted"),
        (["predict", "run=last"], "interrupted: 4 images scored", "interrupted: 4 images scored"),
        (["seed=1"], "", "interrupted; the same command continues from the last checkpoint, if there is one"),
    ],
)
def test_ctrl_c_is_one_line_and_exit_code_130(monkeypatch, capsys, words, said, line):
    def interrupted(*_):
        raise KeyboardInterrupt(*[said] * bool(said))

    monkeypatch.setattr(sys, "argv", ["anomaly_lab", *words])
    monkeypatch.setattr(__main__, "start", interrupted)
    with pytest.raises(SystemExit) as end:
        __main__.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == f"{line}\n"


def test_help_names_the_files_of_somebody_elses_folder(tmp_path):
    for name in ("method/own", "data/_common", "data/own"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(
            "# own.py: a method of one's own.\n_target_: own.A\nwants: {budget.epochs: 3}\n"
        )
    assert methods(tmp_path).endswith("\n  own: a method of one's own\n    sets budget.epochs=3")
    assert "  data: csv, demo, folder, mvtec_ad, one_class, own, table\n" in groups(tmp_path)
    assert methods(None) + "\n  own: a method of one's own\n    sets budget.epochs=3" == methods(tmp_path)
    words, folder = config_folder(["seed=1", "--config-dir", f"{tmp_path}", "name=a"])
    assert (words, folder) == config_folder([f"--config-dir={tmp_path}", "seed=1", "name=a"])
    assert (words, folder) == (["seed=1", "name=a"], tmp_path)
    with pytest.raises(UserError, match="--config-dir: expected a folder of configuration files, found none at .*none"):
        config_folder(["--config-dir", f"{tmp_path}/none"])


def test_a_start_says_what_the_method_wants_and_an_argument_that_an_optimizer_refuses_is_one_line(lab, parts, tmp_path):
    words = ("method=ganomaly", "method.optimizer.eps=-1", "data=folder", f"data.root={parts}", "budget.epochs=1")
    done = lab(*words, "logger=none", "trainer.accelerator=cpu", code=1)
    assert done.stdout == (
        "method=ganomaly sets input.object.image_size=128 (default 256), data.patches=50000 (default 100000), "
        "data.batch_size=64 (default 128), budget.schedule=cosine (default constant); "
        "a key that you type overrides it\n"
    )
    assert done.stderr == "error: method.optimizer: Invalid epsilon value: -1\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("method=efficient_ad", "method.teacher.weights: expected a file of pdn_small, found none"),
        (
            "method=efficient_ad method.teacher.weights=gone.pth",
            "method.teacher.weights: expected a .* nothing at gone",
        ),
        ("method=patchcore method.backbone.weights=gone.pth", "method.backbone.weights: expected a .* nothing at gone"),
        (
            "method=efficient_ad method.foreign_images={parts}/train",
            "method.foreign_images: expected photos of anything",
        ),
        (
            "method=deep_svdd data.image_size=32 budget.epochs=3 method.pretraining_epochs=3",
            "method.pretraining_epochs: expected at most 2, .* found 3",
        ),
        (
            "method=f_anogan method.generator.width=2 method.critic.width=2 method.encoder.width=2 data.patches=40 "
            "budget.epochs=1",
            "budget.epochs: expected at least 2, .* found 1",
        ),
        (
            "method=fcdd data.corruption=null",
            "data.corruption: expected painted defects, from which fcdd .* found null",
        ),
        (
            "method=draem method.width=2 method.segmentation_width=2 data.corruption=null",
            "data.corruption: expected painted defects, from which draem .* null",
        ),
        ("method=nsa data.corruption=null", "data.corruption: expected painted defects, from which nsa .* null"),
        (
            "method=transformation_classifier data.image_size=32 data.good_photos=2",
            "data: expected 2 training images at least, because TransformationClassifier .* found 1",
        ),
        ("method=lsa method.hidden=4 data.batch_size=1", "data.batch_size: expected at least 2 images"),
        (
            "method=ganomaly method.width=4 trainer.gradient_clip_val=1",
            "trainer.gradient_clip_val: expected null, because GANomaly",
        ),
    ],
)
def test_a_dry_run_ends_where_the_run_would(parts, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(cost, "rate_of", lambda config: cost.Rate(0.5, None, "one step"))
    if "foreign" in words:
        monkeypatch.setattr(PatchTeacher, "load", lambda self: [])
    given = [
        "data=folder",
        f"data.root={parts}",
        f"data.cache_dir={tmp_path / 'cache'}",
        f"runs_dir={tmp_path / 'runs'}",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*given, *words.format(parts=parts).split()])
    with pytest.raises(UserError, match=message):
        train.dry_run(train.check(config))


def test_a_dry_run_says_state_data_and_cost_and_leaves_nothing_even_with_a_flag_of_hydra(
    parts, tmp_path, monkeypatch, capsys
):
    (parts / "train/good/again.png").write_bytes((parts / "train/good/000.png").read_bytes())
    monkeypatch.setattr(cost, "rate_of", lambda config: cost.Rate(0.5, None, "one step"))
    words = (
        "data=folder",
        f"data.root={parts}",
        "data.patches=100",
        "budget.epochs=3",
        f"runs_dir={tmp_path / 'runs'}",
        f"data.cache_dir={tmp_path / 'cache'}",
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*words, "dry_run=true"])
    folder = train.folder_of(train.check(config))
    folder.mkdir(parents=True)  # as Hydra does before the job
    about = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(folder)), mode=RunMode.RUN)
    monkeypatch.setattr(train.HydraConfig, "get", lambda: about)
    train.job(config)
    state, data, *rest = capsys.readouterr().out.splitlines()
    assert state == f"to start: {folder}"
    assert data.startswith("data: folder, ")
    assert data.endswith("layout: train/good and test/<class>")
    assert rest[-6:-3] == [
        "train: 11 photos (good 11), 1 of them held out for the threshold",
        "test: 10 photos (good 5, hole 5)",
        "masks: 5 of 5 defective photos",
    ]
    assert rest[-3].startswith("data: byte copies among the training images, held out together: 1, such as ")
    assert rest[-2].startswith("10 decoded training images")
    assert rest[-1] == ("estimate (computed): about 3 min; 500.0 ms a patch measured on one step, without the test")
    assert not (tmp_path / "runs").exists()
    photo = parts / "test/hole/000.png"
    photo.write_bytes(photo.read_bytes()[:99])
    folder.mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"a run would stop at photos that cannot be read, 1 of 21, .*hole/000.png"):
        train.job(config)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--cfg=x"], "argument --cfg/-c: invalid choice: 'x'"),
        (["-m", "--info", "all"], "--multirun and --info together"),
    ],
)
def test_a_flag_that_hydra_does_not_know_is_one_line(flags, found):
    with pytest.raises(UserError) as caught:
        train.refuse_unknown_flags([*flags, "data=demo"])
    assert str(caught.value).startswith(f"expected key=value without dashes, or a flag of --hydra-help, found {found}")


def test_a_word_of_a_command_with_words_of_its_own_leads_to_it():
    for word, meant in (("check", "data check"), ("cache", "data cache"), ("compar", "compare"), ("export.", "export")):
        with pytest.raises(SystemExit, match=f"found {word!r}; did you mean {meant!r}"):
            __main__.start(word, is_job=False)


@pytest.mark.parametrize("word", ["--method=padim", "-method=padim", "--data.root=photos"])
def test_dashes_before_a_key_are_named_wherever_keys_are_typed(word):
    said = f"{word}: expected key=value, found dashes before it; write {word.lstrip('-')}, without dashes"
    for refuse in (train.refuse_unknown_flags, configuration, predict.main):
        with pytest.raises((UserError, OverrideParseException)) as caught:
            refuse([word])
        assert str(explain(caught.value)) == said


LIGHT = """
import os, sys
import anomaly_lab.cli.dashboard, anomaly_lab.cli.export, anomaly_lab.cli.predict, anomaly_lab.cli.threshold
import anomaly_lab.cli.sync, anomaly_lab.cli.train, anomaly_lab.launch.local, anomaly_lab.launch.sweep
from anomaly_lab.__main__ import main
HEAVY = {"torch", "numpy", "cv2", "pytorch_lightning", "wandb"}
for number, line in enumerate(sys.argv[1:]):
    if not os.fork():  # a process for each, without the imports that all have
        sys.argv[1:] = line.split()
        try:
            main()
        except SystemExit:
            pass
        os._exit(bool(HEAVY & set(sys.modules)))
    assert os.wait()[1] == 0, line
"""


def test_help_and_errors_do_not_import_torch():
    lines = (
        "--help", "method=cea", "data.category=carpet data.stride=200", "predict --help", "predict run=x source=y",
        "-m seed=0,-1 data.category=carpet", "data.category=carpet dry_run=true", "data cache", "sync --help",
        "threshold --help", "export --help", "export run=x format=onnx", "dashboard --help", "dashboard entity=x",
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", LIGHT, *lines], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [("methods",), ("predict", "run=x", "source=y"), ("seed=1",)])
def test_a_working_folder_that_was_deleted_is_said(tmp_path, words):
    gone = tmp_path / "gone"
    gone.mkdir()
    program = (
        f"import os, sys; os.rmdir({str(gone)!r}); sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = {list(words)}; "
    )
    program += "from anomaly_lab.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=gone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: expected a working folder, found that it was deleted; cd to one that exists\n"
