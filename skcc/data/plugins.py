"""Image formats that Pillow decodes only with another package, or not at all."""

import importlib
import importlib.metadata
import importlib.util
import os

from PIL import Image

_SUFFIXES_BY_REMEDY = {
    "pip install pillow-heif": ".heic .heif .heics .heifs .hif",
    "upgrade Pillow, or pip install pillow-avif-plugin and import pillow_avif": ".avif .avifs",
    "pip install pillow-jxl-plugin and import pillow_jxl": ".jxl",
    "install a Pillow with WebP": ".webp",
    "read them with rawpy and give arrays": (
        ".3fr .arw .cr2 .cr3 .crw .dng .erf .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw "
        ".rw2 .rwl .sr2 .srf .srw .x3f"
    ),
    "read them with OpenEXR or imageio and give arrays": ".exr .hdr",
    "read them with pydicom and give arrays": ".dcm .dicom",
    "read them with nibabel and give arrays": ".nii",
    "read them with OpenSlide or tifffile and give arrays": ".mrxs .ndpi .scn .svs",
    "convert them to PNG": ".dds .emf .eps .fit .fits .jxr .svg .svgz .wdp .wmf .xcf",
}
_REMEDIES = {
    suffix: remedy
    for remedy, suffixes in _SUFFIXES_BY_REMEDY.items()
    for suffix in suffixes.split()
}
_HEIF_SUFFIXES = frozenset(_SUFFIXES_BY_REMEDY["pip install pillow-heif"].split())
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_JXL_STARTS = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n"
_START = 64  # bytes from which a format is recognised


def remedy(suffix: str) -> str | None:
    """Return how images with a suffix can be read; None if it is no suffix of this table."""
    return _REMEDIES.get(suffix)


def register(suffix: str) -> bool:
    """Register the installed plugin for a suffix with Pillow; return whether that was done now."""
    if suffix not in _HEIF_SUFFIXES or "HEIF" in Image.OPEN:
        return False
    importlib.invalidate_caches()  # it may have been installed after the first attempt
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    importlib.import_module("pillow_heif").register_heif_opener()
    return True


def version() -> str:
    """Return the version of the plugin that `register` uses, or an empty string."""
    try:
        return importlib.metadata.version("pillow-heif")
    except importlib.metadata.PackageNotFoundError:
        return ""


def suffix_of(file) -> str:
    """Return the usual suffix for the contents of a file or a path, or else that of its name."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            start = opened.read(_START)
        own = os.path.splitext(file)[1].lower()
    else:
        start, own = bytes(file.getbuffer()[:_START]), ""
    if start[4:8] == b"ftyp":
        if b"avif" in start[8:] or b"avis" in start[8:]:
            return ".avif"
        if start[8:12] in _HEIF_BRANDS:
            return ".heic"
    return ".jxl" if start.startswith(_JXL_STARTS) else own
