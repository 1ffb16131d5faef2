"""Checks of frames as records: unconverged, repeated, shared by training and validation."""

from __future__ import annotations

import itertools

import numpy as np

from .base import Case, Finding, check

UNCONVERGED = "equinet_unconverged"  # in atoms.info, from the readers
MOVED = 1e-4  # change of a fingerprint; displacements of 1e-4 Å and more make it
SAME_LABEL = 1e-3  # eV/atom, a converged calculation done twice


@check(unconverged="calculations that did not converge")
def check_converged(case: Case) -> list[Finding]:
    """Find frames whose electronic minimisation did not converge."""
    frames = [n for n, atoms in enumerate(case.survey.frames) if atoms.info.get(UNCONVERGED)]
    if not frames:
        return []
    number = f"{len(frames)} frames come of calculations whose electronic steps did not converge"
    return case.find(
        "unconverged",
        "refuse",
        number,
        "their energies and forces are those of no electronic state",
        "Compute them again with more electronic steps, or remove them",
        frames,
    )


@check(duplicates="the same frame more than once")
def check_duplicates(case: Case) -> list[Finding]:
    """Find structures that occur more than once within a part."""
    survey = case.survey
    repeated, inside = 0, []
    for group in survey.same_structure:
        for part in np.unique(survey.part[group]):
            own = group[survey.part[group] == part]
            if len(own) > 1:
                repeated += len(own) - 1
                inside.extend(own[1:].tolist())
    if not inside:
        return []
    number = f"{repeated} of {len(survey.sizes)} frames repeat the structure of an earlier one"
    looks = "files that were joined twice, or relaxations that stood still"
    return case.find(
        "duplicates", "warn", number, looks, "Keep one of each, or give the others weight 0", sorted(inside)
    )


@check(overlap="the same frame in training and validation or test")
def check_overlap(case: Case) -> list[Finding]:
    """Find structures that occur in several parts."""
    survey = case.survey
    findings = []
    for a, b in itertools.combinations(range(len(survey.parts)), 2):
        shared = [
            int(n)
            for group in survey.same_structure
            if (survey.part[group] == a).any()
            for n in group[survey.part[group] == b]
        ]
        shared = [n for n in shared if not survey.isolated[n]]
        if shared:
            names = survey.parts[a], survey.parts[b]
            number = f"{len(shared)} of {int((survey.part == b).sum())} frames of {names[1]} are in {names[0]}, too"
            looks = f"errors on {names[1]} will look better than they are"
            findings += case.find("overlap", "warn", number, looks, "Remove them from one of the two", sorted(shared))
    return findings


@check(contradiction="the same structure with different labels")
def check_contradictions(case: Case) -> list[Finding]:
    """Find structures that occur more than once, with different energies."""
    survey = case.survey
    wrong, largest = [], 0.0
    for group in survey.same_structure:
        group = group[survey.counted[group] & np.isfinite(survey.energy[group])]
        if len(group) < 2:
            continue
        apart = float(np.ptp(survey.energy[group]) / survey.sizes[group[0]])
        if apart > SAME_LABEL:
            wrong.append((apart, group))
            largest = max(largest, apart)
    if not wrong:
        return []
    wrong.sort(key=lambda each: -each[0])
    number = f"{len(wrong)} structures occur with energies up to {largest:.3g} eV/atom apart"
    looks = "two levels of theory, spin states, or frames with the labels of others"
    frames = np.concatenate([group for _, group in wrong])
    return case.find("contradiction", "refuse" if largest > 0.05 else "warn", number, looks, "Keep one of each", frames)


@check(repeated_labels="the same forces on different structures")
def check_repeated(case: Case) -> list[Finding]:
    """Find forces that are exactly those of another frame whose structure differs."""
    survey = case.survey
    groups: dict[bytes, list[int]] = {}
    for n in np.flatnonzero(survey.counted & (np.nan_to_num(survey.rms_force) > 1e-3)):
        groups.setdefault(survey.forces[survey.first[n] : survey.first[n + 1]].tobytes(), []).append(int(n))
    wrong = []
    for group in groups.values():
        if len(group) < 2 or survey.sizes[group[0]] < 2:
            continue
        features = survey.fingerprint[group]
        moved = np.abs(features - features[0]).max(axis=1) > MOVED
        wrong.extend(np.array(group)[moved].tolist())
    if not wrong:
        return []
    number = f"{len(wrong)} frames have exactly the forces of an earlier frame with another structure"
    looks = "labels of one calculation were written into several frames"
    return case.find("repeated-labels", "refuse", number, looks, "Write each frame with its own labels", sorted(wrong))
