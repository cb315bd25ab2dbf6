"""Augmentation against Pillow and torchvision, image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms import functional as TF

from skcc.augment import (
    AUGMENTATIONS,
    CallableAugmentation,
    ImageAugmentation,
    NoAugmentation,
    VectorAugmentation,
    Views,
    crop_resize,
    plain_view,
    resample,
)

CPU = torch.device("cpu")
STILL = ImageAugmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(n=4, h=32, w=32, c=3, seed=0):
    """Pictures with large and small structure, uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 5, 5, c), dtype=np.uint8)
    big = [
        np.stack([np.asarray(Image.fromarray(i[..., k]).resize((w, h), 3)) for k in range(c)], 2)
        for i in coarse
    ]
    noise = rng.integers(-10, 11, (n, h, w, c))
    return torch.from_numpy(np.clip(np.stack(big).astype(int) + noise, 0, 255).astype(np.uint8))


def apply(family, batch, size=None, seed=0, **fixed):
    table = family.draw(len(batch), tuple(batch.shape[1:]), generator(seed))
    for name, value in fixed.items():
        table[name] = torch.as_tensor(value).to(table[name].dtype).expand_as(table[name]).clone()
    return family(batch, table, torch.arange(len(batch)), size or tuple(batch.shape[1:3]))


# -- crop and resize ------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8, 32, 75])
@pytest.mark.parametrize("shape", [(32, 32), (48, 31), (128, 128)])
def test_crop_and_resize_is_pillows_within_one_gray_level(shape, side):
    h, w = shape
    batch = smooth(6, h, w)
    rng = np.random.default_rng(2)
    boxes, expected = [], []
    for image in batch:
        height, width = rng.integers(h // 4, h + 1), rng.integers(w // 4, w + 1)
        top, left = rng.integers(0, h - height + 1), rng.integers(0, w - width + 1)
        boxes.append((top / h, left / w, height / h, width / w))
        crop = Image.fromarray(image.numpy()).crop((left, top, left + width, top + height))
        expected.append(np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR)))
    out = crop_resize(batch.float() / 255, torch.tensor(boxes, dtype=torch.float32), (side, side))
    out = (out * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(out - np.stack(expected)).max() <= 1.01


@pytest.mark.parametrize(("n_in", "n_out"), [(9, 5), (9, 12), (200, 96), (120, 160), (150, 149)])
def test_resampling_is_a_sum_over_pixels_near_each_output(n_in, n_out):
    rng = np.random.default_rng(n_in)
    rows = rng.random((4, n_in, 2))
    length = rng.uniform(1, n_in, 4)
    start = rng.uniform(0, n_in - length)
    start[0], length[0] = 0, n_in
    flip = np.array([False, True, False, True])
    expected = np.zeros((4, n_out, 2))
    for i in range(4):
        scale = length[i] / n_out
        for out in range(n_out):
            total, where = 0.0, n_out - 1 - out if flip[i] else out
            for pixel in range(n_in):
                centre = start[i] + (out + 0.5) * scale
                weight = max(0.0, 1 - abs(pixel + 0.5 - centre) / max(scale, 1.0))
                if start[i] <= pixel + 0.5 < start[i] + length[i]:
                    expected[i, where] += weight * rows[i, pixel]
                    total += weight
            expected[i, where] /= total
    ours = resample(*map(torch.from_numpy, (rows, start, length)), n_out, torch.from_numpy(flip))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)


def test_flip_mirrors_the_crop():
    batch = smooth(2).float() / 255
    box = torch.tensor([[0.1, 0.2, 0.6, 0.7]] * 2)
    flipped = crop_resize(batch, box, (16, 16), torch.tensor([False, True]))
    straight = crop_resize(batch, box, (16, 16))
    torch.testing.assert_close(flipped[0], straight[0])
    torch.testing.assert_close(flipped[1], straight[1].flip(2))


def test_boxes_are_distributed_as_torchvisions():
    n, h, w = 4000, 40, 60
    family = ImageAugmentation()
    box = family.draw(n, (h, w, 3), generator())["box"].numpy() * [h, w, h, w]
    assert (box[:, :2] >= -1e-4).all()
    assert (box[:, 0] + box[:, 2] <= h + 1e-3).all()
    assert (box[:, 1] + box[:, 3] <= w + 1e-3).all()
    torch.manual_seed(0)
    image = torch.zeros(3, h, w)
    theirs = [RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(n)]
    theirs = np.array(theirs, dtype=float)
    for ours, other in zip(box.T, theirs.T, strict=True):
        assert ours.mean() == pytest.approx(other.mean(), abs=0.05 * other.std() + 0.5)
        assert ours.std() == pytest.approx(other.std(), rel=0.06)


def test_a_box_that_never_fits_falls_back_to_the_centre():
    family = ImageAugmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    box = family.draw(5, (10, 40, 3), generator())["box"]
    torch.testing.assert_close(box, torch.tensor([[0.0, 0.375, 1.0, 0.25]]).expand(5, 4))


def test_a_single_pixel_can_be_cropped():
    batch = torch.full((3, 1, 1, 1), 200, dtype=torch.uint8)
    out = apply(ImageAugmentation(), batch)
    torch.testing.assert_close(out, torch.full((3, 1, 1, 1), 200 / 255))


def test_plain_view_resizes_the_whole_image():
    batch = smooth(2, 40, 30)
    out = plain_view(batch, (20, 15)).permute(0, 2, 3, 1).numpy() * 255
    for image, ours in zip(batch, out, strict=True):
        other = Image.fromarray(image.numpy()).resize((15, 20), Image.Resampling.BILINEAR)
        assert np.abs(ours - np.asarray(other)).max() <= 1.01
    torch.testing.assert_close(plain_view(batch, (40, 30)) * 255, batch.permute(0, 3, 1, 2).float())


# -- colour ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "factor", "oracle"),
    [
        ("brightness", 0.7, TF.adjust_brightness),
        ("contrast", 0.5, TF.adjust_contrast),
        ("contrast", 1.2, TF.adjust_contrast),
        ("saturation", 0.3, TF.adjust_saturation),
        ("saturation", 1.2, TF.adjust_saturation),
    ],
)
def test_each_colour_operation_is_torchvisions(name, factor, oracle):
    batch = (smooth(4).float() * 0.5 + 60).to(torch.uint8)  # room, so that nothing is clipped
    plain = plain_view(batch, (32, 32))
    family = replace(STILL, **{name: 0.9})
    out = apply(family, batch, **{name: factor})
    torch.testing.assert_close(out, oracle(plain, factor), atol=0.004, rtol=0)


def test_hue_turns_colours_the_way_torchvision_does():
    batch = smooth(8, seed=3)
    plain = plain_view(batch, (32, 32))
    for turn in (-0.2, -0.1, 0.1, 0.2):
        ours = apply(replace(STILL, hue=0.1), batch, hue=turn)
        theirs = TF.adjust_hue(plain, turn)
        change, error = (theirs - plain).flatten(), (ours - theirs).flatten()
        assert error.abs().mean() < 0.75 * change.abs().mean()
        agreement = torch.corrcoef(torch.stack([(ours - plain).flatten(), change]))[0, 1]
        assert agreement > 0.7
    third = apply(replace(STILL, hue=0.1), batch, hue=1 / 3)  # red to green, green to blue
    torch.testing.assert_close(third, plain[:, [2, 0, 1]], atol=1e-4, rtol=0)


def test_a_hue_of_a_full_turn_changes_nothing():
    batch = smooth(2)
    out = apply(replace(STILL, hue=0.1), batch, hue=1.0)
    torch.testing.assert_close(out, plain_view(batch, (32, 32)), atol=1e-4, rtol=0)


def test_colour_operations_are_applied_in_the_order_that_was_drawn():
    batch = (smooth(1).float() * 0.4 + 40).to(torch.uint8)
    plain = plain_view(batch, (32, 32))
    family = replace(STILL, brightness=0.9, contrast=0.9, saturation=0.9)
    how = {"brightness": 1.2, "contrast": 0.6, "saturation": 0.5}
    adjust = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation]
    for order in ([0, 1, 2, 3], [2, 1, 3, 0], [1, 3, 0, 2]):
        ours = apply(family, batch, order=order, **how)
        theirs = plain
        for kind in order:
            if kind < 3:
                theirs = adjust[kind](theirs, list(how.values())[kind])
        torch.testing.assert_close(ours, theirs, atol=0.004, rtol=0)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_jitter_has_the_statistics_of_torchvisions(strength):
    """Over many draws on one image, pixels have torchvision's mean and spread."""
    n = 1500
    image = smooth(1, 6, 6, seed=5)
    s = strength
    family = replace(
        STILL, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s, jitter=1.0
    )
    ours = apply(family, image.expand(n, -1, -1, -1))
    torch.manual_seed(0)
    jitter = ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)
    plain = plain_view(image, (6, 6))[0]
    theirs = torch.stack([jitter(plain) for _ in range(n)])
    spread = theirs.std(dim=0).mean().item()
    assert (ours.mean(dim=0) - theirs.mean(dim=0)).abs().mean().item() < 0.12 * spread
    assert ours.std(dim=0).mean().item() == pytest.approx(spread, rel=0.12)


def test_grayscale_is_the_luma():
    batch = smooth(2)
    out = apply(replace(STILL, grayscale=0.5), batch, grayscale=True)
    expected = TF.rgb_to_grayscale(plain_view(batch, (32, 32)), 3)
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=0)


def test_chances_are_kept():
    table = AUGMENTATIONS["natural-strong-blur"].draw(5000, (32, 32, 3), generator())
    assert table["flip"].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert table["jitter"].float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert table["grayscale"].float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (table["sigma"] > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    first = torch.bincount(table["order"][:, 0], minlength=4) / 5000
    torch.testing.assert_close(first, torch.full((4,), 0.25), atol=0.03, rtol=0)


def test_gray_images_get_brightness_and_contrast_only():
    batch = (smooth(3, c=1).float() * 0.5 + 50).to(torch.uint8)
    plain = plain_view(batch, (32, 32))
    out = apply(replace(STILL, brightness=0.5, contrast=0.5), batch, brightness=1.2, contrast=0.7)
    mean = plain.mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(out, ((plain - mean) * 0.7 + mean) * 1.2, atol=1e-5, rtol=0)


def test_alpha_is_moved_with_the_image_but_not_coloured():
    batch = smooth(3, c=4)
    family = ImageAugmentation(brightness=0.5, saturation=0.5, hue=0.1, grayscale=0.5)
    plain_colours = replace(family, jitter=0.0, grayscale=0.0)
    a, b = apply(family, batch), apply(plain_colours, batch)
    torch.testing.assert_close(a[:, 3], b[:, 3])
    assert not torch.equal(a[:, :3], b[:, :3])


# -- blur and warp --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 40), (128, 96), (12, 160)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_torchvisions(sigma, size):
    batch = smooth(2, 40, 33)
    out = apply(replace(STILL, blur=0.5), batch, size=size, sigma=sigma)
    plain = apply(STILL, batch, size=size, sigma=0)
    expected = TF.gaussian_blur(plain, [23, 23], [sigma, sigma])
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=0)


def test_no_blur_leaves_the_image():
    batch = smooth(2)
    out = apply(replace(STILL, blur=0.5), batch, sigma=0.0)
    torch.testing.assert_close(out, plain_view(batch, (32, 32)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("degrees", [-15, 10, 90])
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_rotation_is_torchvisions_away_from_the_border(shape, degrees):
    batch = smooth(2, *shape, c=1)
    plain = plain_view(batch, shape)
    family = replace(STILL, scale=(1.0, 1.0), ratio=(shape[1] / shape[0],) * 2, rotation=15.0)
    out = apply(family, batch, rotation=np.deg2rad(degrees))
    expected = TF.rotate(plain, degrees, TF.InterpolationMode.BILINEAR)
    middle = (..., slice(9, shape[0] - 9), slice(14, shape[1] - 14))
    torch.testing.assert_close(out[middle], expected[middle], atol=2e-3, rtol=0)


# -- draws ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in AUGMENTATIONS if n not in ("none", "vector")])
def test_every_image_of_a_batch_gets_its_own_draw(name):
    batch = smooth(1).expand(16, -1, -1, -1)
    out = apply(AUGMENTATIONS[name], batch)
    assert len({tuple(image.flatten().tolist()) for image in out}) == 16
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6  # a blur sums weights


def test_views_of_an_image_do_not_depend_on_its_batch():
    batch = smooth(8)
    views = Views(AUGMENTATIONS["natural"], (32, 32))
    tables = views.draw(8, (32, 32, 3), generator(), CPU)
    whole = views(batch, tables, torch.arange(8))
    some = torch.tensor([6, 1, 3])
    for all_of_them, a_few in zip(whole, views(batch[some], tables, some), strict=True):
        torch.testing.assert_close(all_of_them[some], a_few, atol=1e-5, rtol=0)
    assert not torch.equal(*whole)


def test_a_large_batch_has_the_views_of_small_ones():
    batch = smooth(12, 250, 240)
    family = AUGMENTATIONS["natural-strong-blur"]
    table = family.draw(12, (250, 240, 3), generator())
    whole = family(batch, table, torch.arange(12), (224, 200))
    assert whole.is_contiguous(memory_format=torch.channels_last)
    for i in range(12):
        (alone,) = family(batch[i : i + 1], table, torch.tensor([i]), (224, 200))
        torch.testing.assert_close(whole[i], alone, atol=1e-5, rtol=0)
    plain = plain_view(batch, (224, 200))
    assert plain.is_contiguous(memory_format=torch.channels_last)
    alone = torch.cat([plain_view(image[None], (224, 200)) for image in batch])
    torch.testing.assert_close(plain, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_augmented", [0, 1, 2])
def test_views_beyond_the_augmented_ones_are_plain(n_augmented):
    batch = smooth(4)
    views = Views(AUGMENTATIONS["natural"], (32, 32), n_augmented=n_augmented)
    drawn = views(batch, views.draw(4, (32, 32, 3), generator(), CPU), torch.arange(4))
    plain = plain_view(batch, (32, 32))
    assert [torch.equal(view, plain) for view in drawn] == [i >= n_augmented for i in range(2)]


def test_batches_are_read_only():
    batch = smooth(4)
    before = batch.clone()
    for name, family in AUGMENTATIONS.items():
        if name != "vector":
            apply(family, batch)
    assert torch.equal(batch, before)


# -- vectors and functions ------------------------------------------------------------------


def test_vectors_get_noise_of_the_asked_size_and_lose_features():
    batch = torch.ones(3000, 20)
    family = VectorAugmentation(noise=0.5, drop=0.25)
    out = family(batch, family.draw(3000, (20,), generator()), torch.arange(3000), None)
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert out[kept].mean().item() == pytest.approx(1.0, abs=0.02)
    assert out[kept].std().item() == pytest.approx(0.5, rel=0.03)
    assert len(torch.unique(out, dim=0)) > 2990


def test_few_features_are_not_dropped():
    batch = torch.ones(500, 2)
    family = VectorAugmentation(noise=0.0, drop=0.5)
    out = family(batch, family.draw(500, (2,), generator()), torch.arange(500), None)
    assert torch.equal(out, batch)


def test_a_function_gets_plain_images():
    batch = smooth(3, 20, 20)
    seen = []
    family = CallableAugmentation(lambda images: seen.append(images) or images.flip(3))
    out = family(batch, family.draw(3, (20, 20, 3), generator()), torch.arange(3), (10, 10))
    torch.testing.assert_close(seen[0], plain_view(batch, (10, 10)))
    torch.testing.assert_close(out, plain_view(batch, (10, 10)).flip(3))
    assert torch.equal(NoAugmentation()(batch, {}, torch.arange(3), (10, 10)), seen[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: None, "NoneType"),
        (lambda x: x[:1], r"\(1, 3, 8, 8\)"),
        (lambda x: x[:, :1], r"\(4, 1, 8, 8\)"),
        (lambda x: (x * 255).to(torch.uint8), "float"),
    ],
)
def test_a_function_that_returns_no_views_is_refused(wrong, message):
    batch = smooth(4, 8, 8)
    with pytest.raises(ValueError, match=message):
        CallableAugmentation(wrong)(batch, {}, torch.arange(4), (8, 8))
