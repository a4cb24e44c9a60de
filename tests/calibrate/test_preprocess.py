import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcompile.calibrate.pixels import converted
from qcompile.calibrate.preprocess import INTERPOLATIONS, Preprocess
from qcompile.calibrate.sample import InputSpec
from qcompile.errors import CalibrationError, UsageError

RGB = InputSpec("image", "float32", (1, 3, 224, 224))
NHWC = InputSpec("image", "float32", (1, 32, 48, 3))
GREY = InputSpec("x", "float32", (1, 1, 28, 28))


def gradient(width, height, mode="RGB"):
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1)
    return Image.fromarray(planes.astype(np.uint8)).convert(mode)


def test_the_recipe_of_efficientnet_lite():
    steps = Preprocess.parse("resize=256,crop=224,mean=127,std=128").resolve(RGB)
    image = gradient(400, 300)
    got = steps.apply(image, RGB)
    scaled = image.resize((int(256 * 400 / 300), 256), Image.Resampling.BICUBIC)
    left, top = round((scaled.width - 224) / 2), round((256 - 224) / 2)
    pixels = np.asarray(scaled.crop((left, top, left + 224, top + 224)), np.float32)
    expected = ((pixels - 127) / 128).transpose(2, 0, 1)
    assert got.dtype == np.float32
    assert np.array_equal(got, expected)


def test_defaults_are_imagenets():
    steps = Preprocess().resolve(RGB)
    assert steps.resize == 256
    assert steps.crop == (224, 224)
    assert (steps.interpolation, steps.color, steps.layout, steps.range) == ("bicubic", "rgb", "nchw", "255")
    assert steps.mean == (123.675, 116.28, 103.53)
    assert steps.std == (58.395, 57.12, 57.375)


def test_defaults_of_other_inputs():
    grey = Preprocess().resolve(GREY)
    assert (grey.resize, grey.mean, grey.std, grey.color) == (28, (0.0,), (255.0,), "grey")
    raw = Preprocess().resolve(InputSpec("x", "uint8", (1, 32, 32, 3)))
    assert (raw.mean, raw.std, raw.layout) == ((0.0,), (1.0,), "nhwc")
    wide = Preprocess().resolve(InputSpec("x", "float32", (1, 3, 48, 192)))
    assert wide.resize == wide.crop == (48, 192)
    unit = Preprocess(range="unit").resolve(RGB)
    assert unit.mean == pytest.approx((0.485, 0.456, 0.406))


def test_options_that_are_given_stay():
    steps = Preprocess.parse("resize=300x320,interpolation=bilinear,color=bgr,mean=1,2,3,std=4").resolve(RGB)
    assert steps.resize == (300, 320)
    assert (steps.mean, steps.std, steps.color) == ((1.0, 2.0, 3.0), (4.0,), "bgr")


def test_colours_and_layouts():
    image = Image.new("RGB", (60, 40), (255, 0, 51))
    options = {"mean": (0.0,), "std": (1.0,), "resize": (32, 48)}
    rgb = Preprocess(**options).resolve(NHWC).apply(image, NHWC)
    assert rgb.shape == (32, 48, 3)
    assert rgb[0, 0].tolist() == [255, 0, 51]
    bgr = Preprocess(**options, color="bgr", range="unit").resolve(NHWC).apply(image, NHWC)
    assert bgr[5, 5].tolist() == pytest.approx([0.2, 0.0, 1.0])
    grey = Preprocess(mean=(0.0,), std=(1.0,)).resolve(GREY).apply(image, GREY)
    assert grey.shape == (1, 28, 28)
    assert np.unique(grey).tolist() == [82.0]


def test_means_are_in_the_order_of_the_models_channels():
    spec = InputSpec("x", "float32", (1, 3, 4, 4))
    steps = Preprocess.parse("resize=4,mean=10,20,30,std=1,color=bgr").resolve(spec)
    x = steps.apply(Image.new("RGB", (4, 4), (1, 2, 3)), spec)
    assert x[:, 0, 0].tolist() == [3 - 10, 2 - 20, 1 - 30]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_image(mode):
    x = Preprocess().resolve(RGB).apply(gradient(300, 300).convert(mode), RGB)
    assert x.shape == (3, 224, 224)
    assert np.isfinite(x).all()


def test_sixteen_bit_grey_is_scaled():
    deep = Image.fromarray(np.full((30, 30), 32896, np.uint16))
    x = Preprocess().resolve(GREY).apply(deep, GREY)
    assert np.unique(x).tolist() == pytest.approx([128 / 255])


def test_integer_inputs_get_pixels():
    spec = InputSpec("x", "uint8", (1, 8, 8, 3))
    x = Preprocess(resize=8).resolve(spec).apply(Image.new("RGB", (8, 8), (7, 8, 9)), spec)
    assert x.dtype == np.uint8
    assert x[0, 0].tolist() == [7, 8, 9]


def test_value_range():
    low, high = Preprocess.parse("mean=127,std=128").resolve(RGB).value_range()
    assert low.tolist() == [-127 / 128]
    assert high.tolist() == [1.0]
    low, high = Preprocess.parse("mean=0.5,std=-0.5,range=unit").resolve(RGB).value_range()
    assert (low.tolist(), high.tolist()) == ([-1.0], [1.0])


PREPROCESSES = st.builds(
    Preprocess,
    resize=st.none() | st.integers(1, 999) | st.tuples(st.integers(1, 99), st.integers(1, 99)),
    interpolation=st.none() | st.sampled_from(INTERPOLATIONS),
    crop=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    mean=st.none() | st.lists(st.floats(2, 255), min_size=1, max_size=3).map(tuple),
    std=st.none() | st.lists(st.floats(0.001, 255), min_size=1, max_size=3).map(tuple),
    range=st.none() | st.sampled_from(["255", "unit"]),
    color=st.none() | st.sampled_from(["rgb", "bgr", "grey"]),
    layout=st.none() | st.sampled_from(["nchw", "nhwc"]),
)


@settings(max_examples=100, deadline=None)
@given(PREPROCESSES)
def test_texts_and_mappings_round_trip(steps):
    assert Preprocess.from_mapping(steps.to_mapping()) == steps
    text = steps.to_text()
    assert not text or Preprocess.parse(text) == steps


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("resise=256", "no option 'resise'", "resize"),
        ("256", "not of the form key=value", None),
        ("resize=big", "resize=big is not a size", "224"),
        ("crop=0", "crop=0 is not a size", None),
        ("resize=1x2x3", "not a size", None),
        ("mean=", "not a number", None),
        ("mean=nan", "not a number", None),
        ("std=0", "std must not be 0", None),
        ("interpolation=cubic", "interpolation=cubic", "bicubic"),
        ("resize=3,resize=4", "twice", None),
        ("mean=0.485,0.456,0.406,std=0.2", "looks as if pixels went from 0 to 1", "range=unit"),
    ],
)
def test_wrong_texts(text, message, hint):
    with pytest.raises(UsageError, match=message) as caught:
        Preprocess.parse(text)
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("crop=200", RGB, "crop 200x200 is not the size of input 'image'"),
        ("resize=100", RGB, "resize 100 is smaller than crop 224x224"),
        ("resize=224x100", RGB, "resize 224x100 is smaller"),
        ("mean=1,2", RGB, "mean has 2 values"),
        ("color=grey", RGB, "color=grey does not give the 3 channels"),
        ("layout=nhwc", RGB, "not an image of 1 or 3 channels in layout nhwc"),
        ("", InputSpec("v", "float32", (1, 16)), "is not an image"),
        ("", InputSpec("v", "float32", (1, 5, 224, 224)), "is not an image"),
    ],
)
def test_steps_that_do_not_fit_the_model(text, spec, message):
    steps = Preprocess.parse(text) if text else Preprocess()
    with pytest.raises(CalibrationError, match=message):
        steps.resolve(spec)


def test_an_oblong_crop_that_does_not_fit():
    spec = InputSpec("x", "float32", (1, 3, 40, 80))
    steps = Preprocess(resize=40).resolve(spec)
    with pytest.raises(CalibrationError, match="too small for crop 40x80"):
        steps.apply(gradient(50, 50), spec)


def test_sixteen_bit_grey_is_not_scaled_by_its_own_brightness() -> None:
    """A dark picture of 16 bits is dark, however far its values go."""
    dark = Image.fromarray(np.full((4, 4), 200, np.uint16))
    assert dark.mode.startswith("I;16")
    assert np.asarray(converted(dark, "grey")).max() == 1
    assert np.asarray(converted(Image.fromarray(np.full((4, 4), 200, np.int32)), "grey")).max() == 200
