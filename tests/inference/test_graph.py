"""Graphs of textures, what makes a method no graph, what files carry; methods/test_contract.py asks every method."""

import io
import json

import numpy as np
import onnx
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from anomaly_lab.config.check import check
from anomaly_lab.config.files import CONF
from anomaly_lab.core.types import Batch
from anomaly_lab.data.images import Decoding
from anomaly_lab.data.placement import place
from anomaly_lab.inference.graph import FACTS, answer_of, ask_onnx, ask_pt2, to_onnx, to_pt2, traced, valid_pixels
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.methods.base.fitted import FittedMethod
from tests.conftest import ROOT

SMALL = {"f_anogan": ["method.generator.width=4", "method.critic.width=4", "method.encoder.width=4"]}


def built(name, *overrides):
    """A method of the configuration, and the configuration."""
    torch.manual_seed(0)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["data=folder", "data.root=x", f"method={name}", *SMALL.get(name, []), *overrides])
    OmegaConf.update(config, "hydra", None, force_add=True)
    resolved = check(config)
    return build_method(resolved), resolved["data"]


def photos(folder, data):
    """Three real photos, one of them cut to a strip, so that two thirds of its image are padding."""
    decoding = Decoding(data["image_size"], data["channels"])
    read = [decoding.read(path) for path in sorted(folder.glob("*"))[:3]]
    images = torch.from_numpy(np.stack([image for image, _ in read])).float() / 255
    strip = place(30, 90, data["image_size"], "pad")
    return images, (read[0][1], read[1][1], strip)


def warmed(method, images):
    """Statistics of real images, for batch norm or for the method itself; weights as they were drawn."""
    if isinstance(method, FittedMethod):
        method.update(images, torch.arange(len(images)))
        method.fit()
    else:
        method.train()
        method.rehearse(Batch.of(method.tiling.training_like(images)))
    return method.eval()


def check_parity(method, data, images, placement):
    """Both formats, each as one file for batches of 1 and 3; the files themselves."""
    expected = answer_of(method, images, placement)
    valid = valid_pixels(images, placement)
    assert expected.anomaly_map.std() > 0
    assert len(np.unique(expected.score)) == 3
    program = traced(method, data["channels"], data["image_size"])
    files = {"onnx": to_onnx(program, '{"method": "x"}'), "pt2": to_pt2(program, '{"method": "x"}')}
    for kind, ask in (("onnx", ask_onnx), ("pt2", ask_pt2)):
        for some in (slice(0, 3), slice(2, 3)):
            found = ask(files[kind], images[some], valid[some])
            for right, said in zip(expected, found, strict=True):
                assert said.dtype == np.float32
                assert said.shape == right[some].shape
                assert np.abs(said - right[some]).max() <= 1e-5 * np.abs(right).max()
    return files


def count_convolutions(method, tiles):
    """How many convolutions a look at tiles is; the smoothing of the default score is two more."""
    calls = []
    layers = [layer for layer in method.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in layers]
    with torch.no_grad():
        score = method.predict(tiles).score
    for hook in hooks:
        hook.remove()
    return len(calls) + (2 if score is None else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssim_ae", "f_anogan"])  # the default score of the map, and a score of windows
def test_windows_of_a_texture_are_part_of_the_graph(name, real_data):
    size = 64 if name == "f_anogan" else 128
    method, data = built(name, "data.kind=texture", "data.image_size=200", f"data.patch_size={size}")
    images, placement = photos(real_data / "wood_boards_256/test/good", data)
    convolutions = count_convolutions(warmed(method, images), images[:, :, :size, :size])
    files = check_parity(method, data, images, placement)
    nodes = [node.op_type for node in onnx.load_from_string(files["onnx"]).graph.node]
    assert nodes.count("Conv") == convolutions  # one network, whatever the number of windows
    assert len(nodes) < 400


@pytest.mark.parametrize(
    ("name", "override", "reason"),
    [
        ("variation_model", "method.alignment=rigid", "method.alignment=rigid searches the pose of every image"),
        ("ganomaly", "method.test_batchnorm=batch", "an answer depends on the images beside it"),
        ("skip_ganomaly", "method.test_batchnorm=batch", "an answer depends on the images beside it"),
    ],
)
def test_settings_that_are_no_graph(name, override, reason):
    assert reason in built(name, override, "data.image_size=64")[0].export_obstacle


@pytest.mark.slow
def test_files_name_inputs_and_outputs_and_carry_facts_but_no_paths():
    method, _ = built("variation_model", "data.image_size=32")
    answer_of(method.eval(), torch.rand(1, 1, 32, 32), (place(1, 1, 32, "pad"),))
    program = traced(method, 1, 32)
    facts = json.dumps({"name": "ü'\"\n"})
    onnx_file, pt2_file = to_onnx(program, facts), to_pt2(program, facts)
    model = onnx.load_from_string(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    each = ["batch", 1, 32, 32]
    assert shapes == {"image": each, "valid": each, "anomaly_map": each, "score": ["batch"]}
    assert {entry.key: entry.value for entry in model.metadata_props} == {FACTS: facts}
    extra = {f"{FACTS}.json": ""}
    torch.export.load(io.BytesIO(pt2_file), extra_files=extra)
    assert extra == {f"{FACTS}.json": facts}
    for content in (onnx_file, pt2_file):  # torch stores its archives uncompressed
        assert str(ROOT).encode() not in content
        assert b".py" not in content
