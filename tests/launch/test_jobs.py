"""Jobs of a sweep: the kinds of painted defects on which a run is judged."""

from anomaly_lab.launch.jobs import unpainted


class Mine:
    """A method of one's own."""

    synthetic = frozenset({"patch"})


def test_kinds_that_count_are_those_that_neither_the_method_nor_its_images_are_trained_with():
    def kinds(method, corruption=None):
        return unpainted({"method": {"_target_": f"anomaly_lab.methods.{method}"}, "trust": [],
                          "data": {"corruption": corruption}})  # fmt: skip

    assert kinds("cae.CAE") == {"perlin", "patch", "scar", "blob"}
    assert kinds("cutpaste.CutPaste") == {"perlin", "blob"}
    perlin = {"_target_": "anomaly_lab.data.corruption.PerlinTexture"}
    assert kinds("cutpaste.CutPaste", perlin) == {"blob"}
    several = {"_target_": "anomaly_lab.data.corruption.AnyOf", "corruptions": [perlin]}
    assert kinds("cae.CAE", several) == {"patch", "scar", "blob"}
    assert unpainted({"method": {"_target_": "nobody.knows.It"}, "trust": []}) == set()  # not even imported
    own = {"method": {"_target_": f"{__name__}.Mine"}, "data": {"corruption": None}}
    assert unpainted(own | {"trust": "other,tests"}) == {"perlin", "scar", "blob"}  # as people type it
    assert unpainted(own | {"trust": "test"}) == set()
