"""Export of a method as one graph from working images to map and score, for use without this package."""

import io
import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from anomaly_lab.core.types import Images, Placement
from anomaly_lab.data.placement import content
from anomaly_lab.functional.scores import default_score
from anomaly_lab.methods.base.method import Method

INPUTS, OUTPUTS = ["image", "valid"], ["anomaly_map", "score"]
FACTS = "anomaly_lab"  # the metadata of a file: in ONNX under this key, in pt2 the extra file FACTS.json
Valid = Bool[Tensor, "batch 1 height width"]
Maps = Float[Tensor, "batch 1 height width"]


class Answer(NamedTuple):
    """The output of an exported file for a batch of images."""

    anomaly_map: Float[np.ndarray, "batch 1 height width"]
    score: Float[np.ndarray, " batch"]


class OnePass(nn.Module):
    """The exported computation: map and score of working images, of which only the `valid` pixels count.

    Other pixels get the lowest value of the valid ones, so that no region reaches into them.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Images, valid: Valid) -> tuple[Maps, Float[Tensor, " batch"]]:
        """Map and score of `Method.forward`, up to rounding."""
        anomaly_map, score, *_ = self.method.tiling.in_one_pass(self.method.predict, image)
        if score is None:
            score = default_score(anomaly_map, valid)
        return lowest_outside(anomaly_map, valid), score


def answer_of(method: Method, images: Images, placement: tuple[Placement, ...]) -> Answer:
    """The output of the method itself, in the form of an exported file's."""
    valid = valid_pixels(images, placement)
    with torch.no_grad():
        anomaly_map, score, *_ = method(images, placement)
        assert score is not None
        return Answer(lowest_outside(anomaly_map, valid).numpy(), score.numpy())


def valid_pixels(images: Images, placement: tuple[Placement, ...]) -> Valid:
    """The pixels of the images that show the inspected part of their photos."""
    valid = content(placement, images)
    return torch.ones_like(images[:, :1], dtype=torch.bool) if valid is None else valid


def lowest_outside(anomaly_map: Maps, valid: Valid) -> Maps:
    """The map, with the lowest valid value of each image at pixels that are not valid."""
    lowest = anomaly_map.masked_fill(~valid, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    return torch.where(valid, anomaly_map, lowest)


def traced(method: Method, channels: int, side: int) -> ExportedProgram:
    """The graph of a method for any number of images of one size.

    The method must have predicted for images of that size before: otherwise tensors that it caches (the window of SSIM)
    would be created during tracing and exist only there. Its weights become contiguous.
    """
    method.to(memory_format=torch.contiguous_format)  # pt2 warns of others
    images = torch.zeros(2, channels, side, side), torch.ones(2, 1, side, side, dtype=torch.bool)
    batch = Dim("batch")
    with torch.no_grad():
        program = torch.export.export(OnePass(method), images, dynamic_shapes=({0: batch}, {0: batch}))
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # contains file names of this machine
    program.example_inputs = None  # as large as two photos, and zeros
    return program


def to_pt2(program: ExportedProgram, facts: str) -> bytes:
    """The bytes of a PyTorch file: `torch.export.load(file, extra_files={"anomaly_lab.json": ""})`."""
    file = io.BytesIO()
    with warnings.catch_warnings():  # of buffers of statistics that have kept nothing: empty, so all at one address
        warnings.filterwarnings("ignore", "No complete tensor found")
        torch.export.save(program, file, extra_files={f"{FACTS}.json": facts})
    return file.getvalue()


def to_onnx(program: ExportedProgram, facts: str) -> bytes:
    """The bytes of an ONNX file."""
    import onnx_ir

    batch = {"image": {0: "batch"}, "valid": None}
    written = torch.onnx.export(
        program, (), input_names=INPUTS, output_names=OUTPUTS, dynamic_shapes=batch, verbose=False
    )
    assert written is not None
    model = written.model
    for node in onnx_ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()  # file names again
    model.metadata_props[FACTS] = facts
    return onnx_ir.to_proto(model).SerializeToString()


def ask_pt2(content: bytes, image: Images, valid: Valid) -> Answer:
    """The output of a PyTorch file."""
    with torch.no_grad():
        anomaly_map, score = torch.export.load(io.BytesIO(content)).module()(image, valid)
    return Answer(anomaly_map.numpy(), score.numpy())


def ask_onnx(content: bytes, image: Images, valid: Valid) -> Answer:
    """The output of an ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Answer(*session.run(OUTPUTS, {"image": image.numpy(), "valid": valid.numpy()}))
