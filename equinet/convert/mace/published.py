"""The published MACE model files, by content and by name: what each is, where it lies, and under which licence.

equinet ships no weights. A file is recognised by the SHA-256 of its bytes and by nothing else; a name, :func:`look_alike`, is only a hint.
The hashes were collected from public records of downloads, since the releases publish none.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

_BLOCK = 1 << 20  # bytes read at a time

# licence: whether it lets a model be used commercially, its full name, where it can be read
_LICENCES: dict[str, tuple[bool, str, str]] = {
    "MIT": (True, "MIT License", "https://github.com/ACEsuit/mace-foundations/blob/main/LICENSE"),
    "ASL": (False, "Academic Software License", "https://github.com/gabor1/ASL/blob/main/ASL.md"),
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One released model file."""

    name: str
    """What people call the model, e.g. ``"MACE-MP-0 medium"``."""
    file: str
    """File name as released."""
    url: str
    """Where the file can be downloaded."""
    sha256: str | None
    """SHA-256 of the file, 64 lowercase hex digits; None where no record of it was found, so that no file is recognised as it."""
    size: int | None
    """Bytes; None where not recorded."""
    licence: str
    """``"MIT"`` or ``"ASL"`` (Academic Software License)."""
    note: str
    """How mace-torch names it, training data, level of theory, elements, and what is special."""

    def __post_init__(self) -> None:
        if self.licence not in _LICENCES:
            raise ValueError(
                f"`licence` must be one of {', '.join(_LICENCES)}, not {self.licence!r}; add its terms first"
            )
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"`sha256` of {self.name} must be 64 lowercase hex digits or None, not {self.sha256!r}")

    @property
    def commercial(self) -> bool:
        """Whether the licence lets the model be used commercially."""
        return _LICENCES[self.licence][0]

    def warning(self) -> str | None:
        """What a user of a non-commercial model must know, in two sentences; None where commercial use is allowed."""
        commercial, full, url = _LICENCES[self.licence]
        if commercial:
            return None
        return (
            f"{self.name} is released under the {full} ({self.licence}): academic, non-commercial use only. "
            f"Weights converted or fine-tuned from it stay under that licence, see {url}"
        )


_RELEASES = "https://github.com/ACEsuit/mace-foundations/releases/download"
_OFF = "https://raw.githubusercontent.com/ACEsuit/mace-off/main"

_MPTRJ = "MPtrj, PBE and PBE+U; 89 elements; no dispersion"
_OMAT = "OMat24, PBE and PBE+U (VASP 54 potentials); 89 elements; no dispersion"
_SPICE = "H C N O F P S Cl Br I, neutral molecules; ωB97M-D3(BJ), so dispersion is inside and must not be added"
_OMOL = "OMol25, ωB97M-V, so dispersion is inside and must not be added; molecules and metal complexes"
_MULTIHEAD = "OMat24, OMol25, OC20, MatPES and more, one level of theory per head; 89 elements"
# The release, its pages and mace-torch's loader state no licence; those who record one say ASL, so the stricter one stands here.
_POLAR = f"{_OMOL}; charge, spin and external field enter; long-range electrostatics (PolarMACE); licence as others record it"

PUBLISHED: tuple[Published, ...] = (
    Published(
        name="MACE-MP-0 small",
        file="2023-12-10-mace-128-L0_energy_epoch-249.model",
        url=f"{_RELEASES}/mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
        sha256="2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
        size=32_581_838,
        licence="MIT",
        note=f'mace_mp("small"); {_MPTRJ}',
    ),
    Published(
        name="MACE-MP-0 medium",
        file="2023-12-03-mace-128-L1_epoch-199.model",
        url=f"{_RELEASES}/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model",
        sha256="01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
        size=44_422_970,
        licence="MIT",
        note=f'mace_mp("medium"), the default of mace_mp() before mace-torch 0.3.10; {_MPTRJ}',
    ),
    Published(
        name="MACE-MP-0 large",
        file="MACE_MPtrj_2022.9.model",
        url=f"{_RELEASES}/mace_mp_0/MACE_MPtrj_2022.9.model",
        sha256="f80e992b65ab8f88fdf26964511357c022e92704e4d9bcd086652635a8495b32",
        size=133_803_220,
        licence="MIT",
        note=f'mace_mp("large"); {_MPTRJ}; not the file of the release table\'s large model, which is 2024-01-07',
    ),
    Published(
        name="MACE-MP-0 large (2024-01-07)",
        file="2024-01-07-mace-128-L2_epoch-199.model",
        url=f"{_RELEASES}/mace_mp_0/2024-01-07-mace-128-L2_epoch-199.model",
        sha256="514bd2f1938653c37929f7c275a489378f03a7e3ffb27aa2ae0ddce8d0c859c8",
        size=63_509_066,
        licence="MIT",
        note=f"by URL only; {_MPTRJ}; the large model of the release table",
    ),
    Published(
        name="MACE-MP-0b small",
        file="mace_agnesi_small.model",
        url=f"{_RELEASES}/mace_mp_0b/mace_agnesi_small.model",
        sha256="7e3a0abcaf41e03a80e69f778e1b11b29de1cca704783dc25917a736392f8cf0",
        size=67_603_120,
        licence="MIT",
        note=f'mace_mp("small-0b"); {_MPTRJ}; Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-MP-0b medium",
        file="mace_agnesi_medium.model",
        url=f"{_RELEASES}/mace_mp_0b/mace_agnesi_medium.model",
        sha256="ab8baff639a8f295f3eccad3d3ccf574efb6fb63220bd52cd88664211569e521",
        size=79_447_096,
        licence="MIT",
        note=f'mace_mp("medium-0b"); {_MPTRJ}; Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-MP-0b2 small",
        file="mace-small-density-agnesi-stress.model",
        url=f"{_RELEASES}/mace_mp_0b2/mace-small-density-agnesi-stress.model",
        sha256="d5773bf9440e96d6eb8c598f84bd0e6369fcfa432f626a87f890e07da3c651c9",
        size=67_622_684,
        licence="MIT",
        note=f'mace_mp("small-0b2"); {_MPTRJ}; density normalization, Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-MP-0b2 medium",
        file="mace-medium-density-agnesi-stress.model",
        url=f"{_RELEASES}/mace_mp_0b2/mace-medium-density-agnesi-stress.model",
        sha256="a90be07c8aa6623c390fcc4653d3e319c4a356f8b4a53d323f96b2012d375caf",
        size=79_462_798,
        licence="MIT",
        note=f'mace_mp("medium-0b2"); {_MPTRJ}; density normalization, Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-MP-0b2 large",
        file="mace-large-density-agnesi-stress.model",
        url=f"{_RELEASES}/mace_mp_0b2/mace-large-density-agnesi-stress.model",
        sha256="348390e758e1c90011c7675e864850f8e9c5b3e7c217f79a2b4bad1baaa657ad",
        size=98_544_548,
        licence="MIT",
        note=f'mace_mp("large-0b2"); {_MPTRJ}; density normalization, Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-MP-0b3 medium",
        file="mace-mp-0b3-medium.model",
        url=f"{_RELEASES}/mace_mp_0b3/mace-mp-0b3-medium.model",
        sha256="2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
        size=79_472_952,
        licence="MIT",
        note=f'mace_mp("medium-0b3"); {_MPTRJ}; density normalization, Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-MPA-0 medium",
        file="mace-mpa-0-medium.model",
        url=f"{_RELEASES}/mace_mpa_0/mace-mpa-0-medium.model",
        sha256="75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
        size=79_462_305,
        licence="MIT",
        note='mace_mp("medium-mpa-0"), the default of mace_mp() since mace-torch 0.3.10; '
        "MPtrj and sAlex, PBE and PBE+U; 89 elements; no dispersion; density normalization, Agnesi transform and ZBL repulsion",
    ),
    Published(
        name="MACE-OMAT-0 small",
        file="mace-omat-0-small.model",
        url=f"{_RELEASES}/mace_omat_0/mace-omat-0-small.model",
        sha256="0abfde07862cf1e93b8b4d03cb702f29ce9c344ff2fc4de2ec0d7166d6c113a5",
        size=67_630_500,
        licence="ASL",
        note=f'mace_mp("small-omat-0"); {_OMAT}; density normalization, Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-OMAT-0 medium",
        file="mace-omat-0-medium.model",
        url=f"{_RELEASES}/mace_omat_0/mace-omat-0-medium.model",
        sha256="d4b14be9afa294eebdbe31a0280b26a0fa29715771e978cbfd3ca24e0d90307a",
        size=None,
        licence="ASL",
        note=f'mace_mp("medium-omat-0"); {_OMAT}; density normalization, Agnesi transform and ZBL repulsion',
    ),
    Published(
        name="MACE-MATPES-PBE-0",
        file="MACE-matpes-pbe-omat-ft.model",
        url=f"{_RELEASES}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
        sha256="e618ad582b84239905b9c3b77ce6e9ce111b0ecd1533223a1a6aac7a696b8aa0",
        size=79_471_284,
        licence="ASL",
        note='mace_mp("mace-matpes-pbe-0"); MatPES, PBE without +U, fine-tuned from OMAT-0; 89 elements; no dispersion',
    ),
    Published(
        name="MACE-MATPES-r2SCAN-0",
        file="MACE-matpes-r2scan-omat-ft.model",
        url=f"{_RELEASES}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
        sha256="8f147ecffa1d06a696e5648b13b81abda9c96fda9d0fb3faba3cd3fb27d9bba9",
        size=79_470_738,
        licence="ASL",
        note='mace_mp("mace-matpes-r2scan-0"); MatPES, r²SCAN, fine-tuned from OMAT-0; 89 elements; no dispersion',
    ),
    Published(
        name="MACE-MH-0",
        file="mace-mh-0.model",
        url=f"{_RELEASES}/mace_mh_1/mace-mh-0.model",
        sha256="d62ff8f293664e6556cfa49364b28ee72a70cf1e6150f3c111a578397fed609d",
        size=None,
        licence="ASL",
        note=f'mace_mp("mh-0"); {_MULTIHEAD}; among the heads: omat_pbe, mp_pbe_refit_add, omol, spice_wB97M',
    ),
    Published(
        name="MACE-MH-1",
        file="mace-mh-1.model",
        url=f"{_RELEASES}/mace_mh_1/mace-mh-1.model",
        sha256="a522eb7f59c7879963d41586528f4980baf33e086c94aa92e3eafdeccad3be47",
        size=59_208_139,
        licence="ASL",
        note=f'mace_mp("mh-1"); {_MULTIHEAD}; heads in the file\'s order: matpes_r2scan, mp_pbe_refit_add, spice_wB97M, '
        "oc20_usemppbe, omol, omat_pbe; no charge or spin input; non-linear interaction blocks, one product for all elements",
    ),
    Published(
        name="MACE-OMOL-0 extra large",
        file="MACE-omol-0-extra-large-1024.model",
        url=f"{_RELEASES}/mace_omol_0/MACE-omol-0-extra-large-1024.model",
        sha256="9b64b4fd5153ca578c694abc57806d8111050de6ff652e695c9b525bc4d36469",
        size=422_242_640,
        licence="ASL",
        note=f'mace_omol("extra_large"); {_OMOL}; 83 elements in the file, 89 in the release table; '
        "total charge and spin enter through embeddings; non-linear interaction blocks; head omol",
    ),
    Published(
        name="MACE-OMOL-0 extra large (4M)",
        file="mace-omol-0-extra-large-4M.model",
        url=f"{_RELEASES}/mace_omol_0/mace-omol-0-extra-large-4M.model",
        sha256=None,
        size=None,
        licence="ASL",
        note=f"by URL only; {_OMOL}, its 4M subset; total charge and spin enter through embeddings; no hash found",
    ),
    Published(
        name="MACE-OFF23 small",
        file="MACE-OFF23_small.model",
        url=f"{_OFF}/mace_off23/MACE-OFF23_small.model",
        sha256="165cce4cfec5a34b9c64d4ebf95de15d71106bb584b7291c8470f0749977c46f",
        size=7_347_350,
        licence="ASL",
        note=f'mace_off("small"); SPICE 1; {_SPICE}',
    ),
    Published(
        name="MACE-OFF23 medium",
        file="MACE-OFF23_medium.model",
        url=f"{_OFF}/mace_off23/MACE-OFF23_medium.model",
        sha256="4842c52ad210d6e1f84d6cf1ffa70fae25a7e0d755ed55cf223f43913f587db7",
        size=18_350_596,
        licence="ASL",
        note=f'mace_off("medium"), the default of mace_off(); SPICE 1; {_SPICE}',
    ),
    Published(
        name="MACE-OFF23 large",
        file="MACE-OFF23_large.model",
        url=f"{_OFF}/mace_off23/MACE-OFF23_large.model",
        sha256="a29e397dbf3e7a24ac50a9b0dfc919bd5a62efa346f5895a6237b0950c1d76f4",
        size=55_492_786,
        licence="ASL",
        note=f'mace_off("large"); SPICE 1; {_SPICE}',
    ),
    Published(
        name="MACE-OFF23b medium",
        file="MACE-OFF23b_medium.model",
        url=f"{_OFF}/mace_off23/MACE-OFF23b_medium.model",
        sha256="871653738a4fbc8124dba1ff5bc595bd0abf7b849a8538c0825dc29ebadf1680",
        size=None,
        licence="ASL",
        note=f"by URL only; SPICE; {_SPICE}; as OFF23 medium with a cutoff of 6 Å instead of 5 Å",
    ),
    Published(
        name="MACE-OFF24 medium",
        file="MACE-OFF24_medium.model",
        url=f"{_OFF}/mace_off24/MACE-OFF24_medium.model",
        sha256="e5ccf5837f685899811a68754e7c994393bfd1a81720393b03c643b46c70bc69",
        size=18_375_569,
        licence="ASL",
        note=f"by URL only; SPICE; {_SPICE}; successor of OFF23 medium",
    ),
    Published(
        name="MACE-POLAR-1 small",
        file="MACE-POLAR-1-S.model",
        url=f"{_RELEASES}/mace_polar_1/MACE-POLAR-1-S.model",
        sha256="e4495612037b3b3312633182882a38a694ecac9ea0be2b9889ac0b2a84a99510",
        size=33_375_439,
        licence="ASL",
        note=f'mace_polar("polar-1-s"); {_POLAR}; one layer, scalars only: atomic charges, no dipoles',
    ),
    Published(
        name="MACE-POLAR-1 medium",
        file="MACE-POLAR-1-M.model",
        url=f"{_RELEASES}/mace_polar_1/MACE-POLAR-1-M.model",
        sha256="fab8b8713c832f31a2a853aaa22fd638be8a369cbf5095e6b3e982a18d10e93a",
        size=68_133_235,
        licence="ASL",
        note=f'mace_polar("polar-1-m"); {_POLAR}; two layers',
    ),
    Published(
        name="MACE-POLAR-1 large",
        file="MACE-POLAR-1-L.model",
        url=f"{_RELEASES}/mace_polar_1/MACE-POLAR-1-L.model",
        sha256="9f65f8dc6ddaff1d631e299cb531376a7da5e68d1bef04f34a2d5073d5ef114b",
        size=None,
        licence="ASL",
        note=f'mace_polar("polar-1-l"); {_POLAR}; three layers',
    ),
    Published(
        name="MACE-ANI-CC large",
        file="ani500k_large_CC.model",
        url="https://raw.githubusercontent.com/ACEsuit/mace/main/mace/calculators/foundations_models/ani500k_large_CC.model",
        sha256=None,
        size=None,
        licence="MIT",
        note="mace_anicc(); ANI data, coupled cluster; H C N O; mace-torch cannot load the file without CUDA; no hash found",
    ),
)

_BY_HASH = {one.sha256: one for one in PUBLISHED if one.sha256 is not None}


def identify(sha256: str) -> Published | None:
    """The published file of this content, or None.

    A model that was loaded and saved again has the same weights and another hash: None says "not this file", not "not this model".

    Args:
        sha256: SHA-256 of the file's bytes, in hex; capitals are accepted.

    >>> identify("75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638").name
    'MACE-MPA-0 medium'
    """
    return _BY_HASH.get(sha256.strip().lower())


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 lowercase hex digits; read in blocks, so that a large file needs no memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _bare(file_name: str) -> str:
    """Letters and digits of a name, in lower case. mace-torch caches under the name without punctuation, some files with their query."""
    return re.sub(r"[\W_]", "", file_name.lower()).removesuffix("rawtrue")


# Up to mace-torch 0.3.6 the files of MP-0 came from short links, whose last part became the cached name.
_SHORT_LINKS = {
    "46jrkm3v": "2023-12-10-mace-128-L0_energy_epoch-249.model",
    "5yyxdm76": "2023-12-03-mace-128-L1_epoch-199.model",
    "5f5yavf3": "MACE_MPtrj_2022.9.model",
}
_BY_NAME = {_bare(one.file): one for one in PUBLISHED}
_BY_NAME |= {link: _BY_NAME[_bare(file)] for link, file in _SHORT_LINKS.items()}


def look_alike(file_name: str) -> Published | None:
    """The published file of this name, as released or as mace-torch caches it, or None.

    For a file that :func:`identify` does not know: "named like MACE-MP-0 medium, but with another content". A name proves nothing.

    Args:
        file_name: Name of the file; folders before it are ignored.

    >>> look_alike("20231203mace128L1_epoch199model").name
    'MACE-MP-0 medium'
    """
    return _BY_NAME.get(_bare(re.split(r"[/\\]", file_name)[-1]))
