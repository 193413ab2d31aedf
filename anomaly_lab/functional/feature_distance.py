"""How far a student's features are from its teacher's."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


def cosine_distance(
    teacher: Float[Tensor, "batch feature *place"], student: Float[Tensor, "batch feature *place"]
) -> Float[Tensor, "batch 1 *place"]:
    """1 - cos of the angle between the two vectors at each place: 0 for the same direction, 2 for opposite ones.

    Computed in float32 as half the squared distance of the unit vectors, which is the same and is exactly 0 for equal
    ones. A vector of zeros has the distance 1/2 from all others.
    """
    difference = normalize(teacher.float()) - normalize(student.float())
    return difference.square().sum(dim=1, keepdim=True) / 2
